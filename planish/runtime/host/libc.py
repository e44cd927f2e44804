"""What host code uses of the C library, on Linux."""

from __future__ import annotations

from collections.abc import Callable

from planish.runtime.host.language import Ptr, extern, f64, i32, i64, u8, u64

READ = 1  # of mmap
WRITE = 2
PRIVATE = 2
ANONYMOUS = 0x20
HUGE_PAGES = 14  # of madvise
READ_ONLY = 0  # of open
TO_END = 2  # of lseek
MONOTONIC = 1  # of clock_gettime
INTERRUPTED = 4  # an errno


@extern
def calloc(count: i64, size: i64) -> Ptr[u8]: ...
@extern
def free(place: Ptr[u8]) -> None: ...
@extern
def memcpy(to: Ptr[u8], source: Ptr[u8], size: i64) -> Ptr[u8]: ...
@extern
def memcmp(a: Ptr[u8], b: Ptr[u8], size: i64) -> i32: ...
@extern
def strlen(start: Ptr[u8]) -> i64: ...
@extern
def strcmp(a: Ptr[u8], b: Ptr[u8]) -> i32: ...
@extern
def snprintf(out: Ptr[u8], size: i64, form: Ptr[u8], *more: object) -> i32: ...
@extern
def strerror(number: i32) -> Ptr[u8]: ...
@extern
def __errno_location() -> Ptr[i32]: ...


@extern
def mmap(
    at: Ptr[u8], size: i64, access: i32, flags: i32, file: i32, offset: i64
) -> Ptr[u8]: ...  # fmt: skip
@extern
def munmap(at: Ptr[u8], size: i64) -> i32: ...
@extern
def madvise(at: Ptr[u8], size: i64, advice: i32) -> i32: ...
@extern
def open(path: Ptr[u8], flags: i32, *more: object) -> i32: ...
@extern
def close(file: i32) -> i32: ...
@extern
def lseek(file: i32, offset: i64, whence: i32) -> i64: ...


@extern
def pthread_create(
    thread: Ptr[u64], how: Ptr[u8], start: Callable[[Ptr[u8]], Ptr[u8]], given: Ptr[u8]
) -> i32: ...
@extern
def pthread_join(thread: u64, result: Ptr[Ptr[u8]]) -> i32: ...
@extern
def sched_getaffinity(process: i32, size: i64, mask: Ptr[u64]) -> i32: ...
@extern
def syscall(number: i64, *more: object) -> i64: ...
@extern
def clock_gettime(clock: i32, time: Ptr[i64]) -> i32: ...
@extern
def strtod(start: Ptr[u8], end: Ptr[Ptr[u8]]) -> f64: ...
@extern
def strtoll(start: Ptr[u8], end: Ptr[Ptr[u8]], base: i32) -> i64: ...
