"""Waiting and waking between threads, and the report of a failed guard, as LLVM text.

A waiter spins for about 50 us (two spinning threads meet in 0.1 us), then sleeps in the kernel
(waking costs 40 us, but leaves the core to others). After 2 us it offers its core to others as it
spins: on a busy machine, the thread that it waits for may be the one that wants that core. The
words that threads wait for are i32, each followed by its number of sleepers and alone on its cache
line.

    planish.wait(word, old)    returns when *word is no longer `old`
    planish.wake(word)         call after changing *word, and a seq_cst operation
    planish.barrier(memory, thread, threads)   memory: a word for each thread, its meetings
    planish.tick(profile, n, barrier, thread, threads)   profile[n] += time since the last tick,
                               when all have met; only notes in a recording
    planish.note(profile, n, thread)   profile[2 + profile[1] * thread + n] = time, in a recording
                               (profile[0] is RECORDING). Both do nothing where profile is null
    planish.fail(status, site, index, bound)   status: i64[4], (failed, site, index, bound)
    planish_worker(pool, thread)       runs jobs until told to stop
    planish_run(pool, job, argument, threads)   runs job(argument, thread, threads) on all threads
    planish_rouse(pool)    wakes threads that sleep: they spin for a while, as a job will come soon
"""

from __future__ import annotations

from planish.runtime.target import Target

LINE = 64  # bytes between words, so that they do not share a cache line

# Cycles of the counter below, about 50 us at 2 to 4 GHz; without a counter, rounds of the loop.
_SPIN = {"x86_64": 150_000, "aarch64": 2_000, "riscv64": 500}
_SPIN_ROUNDS = 10_000
_EAGER = 256  # rounds without a pause, some 200 ns: most meetings are over by then
_ALONE = {"x86_64": 6_000, "aarch64": 80, "riscv64": 20}  # the same, before others are let in
_PAUSE = {  # the intrinsic that tells the core that we spin, its parameter and argument
    "x86_64": ("llvm.x86.sse2.pause", "", ""),
    "aarch64": ("llvm.aarch64.isb", "i32", "i32 15"),
}
# x86 counts cycles; elsewhere the cycle counter may be forbidden, the steady one is not.
_STEADY = "llvm.readsteadycounter"
_CLOCK = {"x86_64": "llvm.readcyclecounter", "aarch64": _STEADY, "riscv64": _STEADY}
_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
_YIELD = {"x86_64": 24, "aarch64": 124, "riscv64": 124}


def clock(target: Target) -> str | None:
    """The intrinsic that counts time on `target`, or None."""
    return _CLOCK.get(target.arch)


def sync_text(target: Target) -> str:
    """The functions above, but for the pool's, as a module."""
    futex = _FUTEX.get(target.arch) if "linux" in target.triple else None
    pause, parameter, argument = _PAUSE.get(target.arch, ("", "", ""))
    name = clock(target)
    now, limit = (f"call i64 @{name}()", _SPIN[target.arch]) if name else ("add i64 0, 0", 0)
    declared = f"declare i64 @{name}()\n" if name else ""
    declared += f"declare void @{pause}({parameter})\n" if pause else ""
    pause = f"call void @{pause}({argument})" if pause else ""
    sleep, wake = (_sleep_futex(futex), _wake_futex(futex)) if futex else (_SLEEP_YIELD, "")
    lend = f"call i64 (i64, ...) @syscall(i64 {_YIELD[target.arch]})" if futex else _SLEEP_YIELD
    external = _SYSCALL if futex else "declare i32 @sched_yield()\n"
    return (
        declared
        + external
        + _WAIT.format(
            now=now,
            pause=pause,
            limit=limit,
            rounds=_SPIN_ROUNDS,
            eager=_EAGER,
            sleep=sleep,
            alone=_ALONE.get(target.arch, 0),
            lend=lend,
        )
        + _WAKE.format(wake=wake)
        + _BARRIER
        + _NOTE.format(now=now)
        + _TICK.format(now=now)
        + FAIL
    )


def pool_text(target: Target) -> str:
    """The module of the thread pool, which may lie beside programs: it has its own functions."""
    return sync_text(target).replace("define void", "define internal void") + _POOL


# Declarations of what a main function calls
DECLARED = {
    "planish.barrier": "declare void @planish.barrier(ptr, i64, i64)",
    "planish.note": "declare void @planish.note(ptr, i64, i64)",
    "planish.tick": "declare void @planish.tick(ptr, i64, ptr, i64, i64)",
}


_SYSCALL = "declare i64 @syscall(i64, ...)\n"


def _sleep_futex(number: int) -> str:
    # FUTEX_WAIT_PRIVATE = 128: sleeps only while the word still is `old`
    return (
        f"call i64 (i64, ...) @syscall(i64 {number}, ptr %word, i32 128, i32 %old, "
        "ptr null, ptr null, i32 0)"
    )


def _wake_futex(number: int) -> str:
    # FUTEX_WAKE_PRIVATE = 129: everybody
    return (
        f"call i64 (i64, ...) @syscall(i64 {number}, ptr %word, i32 129, i32 2147483647, "
        "ptr null, ptr null, i32 0)"
    )


_SLEEP_YIELD = "call i32 @sched_yield()"

_WAIT = """
define void @planish.wait(ptr %word, i32 %old) noinline nounwind uwtable {{
entry:
  %sleepers = getelementptr i8, ptr %word, i64 4
  br label %begin
begin:
  %start = {now}
  br label %spin
spin:
  %round = phi i64 [ 0, %begin ], [ %next, %again ]
  %new = load atomic i32, ptr %word acquire, align 4
  %same = icmp eq i32 %new, %old
  br i1 %same, label %check, label %done
check:
  %next = add i64 %round, 1
  %early = icmp ult i64 %round, {eager}
  br i1 %early, label %again, label %patient
patient:
  {pause}
  %time = {now}
  %spent = sub i64 %time, %start
  %late = icmp ugt i64 %spent, {limit}
  %many = icmp ugt i64 %round, {rounds}
  %counted = icmp eq i64 {limit}, 0
  %tired = select i1 %counted, i1 %many, i1 %late
  br i1 %tired, label %sleep, label %more
more:
  %long = icmp ugt i64 %spent, {alone}
  br i1 %long, label %lend, label %again
lend:
  {lend}
  br label %again
again:
  br label %spin
sleep:
  %before = atomicrmw add ptr %sleepers, i32 1 seq_cst
  %slept = {sleep}
  %after = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %begin
done:
  ret void
}}
"""

_WAKE = """
define void @planish.wake(ptr %word) nounwind uwtable {{
entry:
  %sleepers = getelementptr i8, ptr %word, i64 4
  %count = load atomic i32, ptr %sleepers seq_cst, align 4
  %some = icmp ne i32 %count, 0
  br i1 %some, label %rouse, label %done
rouse:
  {wake}
  br label %done
done:
  ret void
}}
"""

# A thread says that it is there before it looks for the others, and wakes who sleeps after: a store
# that nobody waits for, and a line of each other thread to fetch. Where they count themselves in
# one word, its line goes from each to the next, and that of a second word back.
_BARRIER = """
define void @planish.barrier(ptr %memory, i64 %thread, i64 %threads)
    noinline nounwind uwtable {
entry:
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %done, label %arrive
arrive:
  %offset = mul i64 %thread, 64
  %own = getelementptr i8, ptr %memory, i64 %offset
  %before = load atomic i32, ptr %own monotonic, align 4
  %now = add i32 %before, 1
  store atomic i32 %now, ptr %own release, align 4
  br label %look
look:
  %i = phi i64 [ 0, %arrive ], [ %next, %seen ]
  %other = icmp ne i64 %i, %thread
  br i1 %other, label %wait, label %seen
wait:
  %at = mul i64 %i, 64
  %word = getelementptr i8, ptr %memory, i64 %at
  call void @planish.wait(ptr %word, i32 %before)
  br label %seen
seen:
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %threads
  br i1 %more, label %look, label %rouse
rouse:
  fence seq_cst
  call void @planish.wake(ptr %own)
  br label %done
done:
  ret void
}
"""

# What profile[0] is where each thread has times of its own, profile[1] of them
RECORDING = -1

_NOTE = f"""
define void @planish.note(ptr %profile, i64 %n, i64 %thread) noinline nounwind uwtable {{{{
entry:
  %wanted = icmp ne ptr %profile, null
  br i1 %wanted, label %ask, label %done, !prof !0
ask:
  %mode = load i64, ptr %profile
  %mine = icmp eq i64 %mode, {RECORDING}
  br i1 %mine, label %store, label %done
store:
  %lengths = getelementptr i64, ptr %profile, i64 1
  %length = load i64, ptr %lengths
  %before = mul i64 %length, %thread
  %index = add i64 %before, %n
  %times = getelementptr i64, ptr %profile, i64 2
  %at = getelementptr i64, ptr %times, i64 %index
  %now = {{now}}
  store i64 %now, ptr %at
  br label %done
done:
  ret void
}}}}
"""

# profile[0] is the time of the last tick. All threads meet, so that a step's time is all of it.
_TICK = f"""
define void @planish.tick(ptr %profile, i64 %n, ptr %barrier, i64 %thread, i64 %threads)
    noinline nounwind uwtable {{{{
entry:
  %wanted = icmp ne ptr %profile, null
  br i1 %wanted, label %ask, label %done, !prof !0
ask:
  %mode = load i64, ptr %profile
  %recording = icmp eq i64 %mode, {RECORDING}
  br i1 %recording, label %own, label %meet
own:
  call void @planish.note(ptr %profile, i64 %n, i64 %thread)
  br label %done
meet:
  call void @planish.barrier(ptr %barrier, i64 %thread, i64 %threads)
  %first = icmp eq i64 %thread, 0
  br i1 %first, label %note, label %done
note:
  %now = {{now}}
  %last = load i64, ptr %profile
  store i64 %now, ptr %profile
  %some = icmp ne i64 %n, 0
  br i1 %some, label %add, label %done
add:
  %spent = sub i64 %now, %last
  %at = getelementptr i64, ptr %profile, i64 %n
  %old = load i64, ptr %at
  %new = add i64 %old, %spent
  store i64 %new, ptr %at
  br label %done
done:
  ret void
}}}}
"""

# Each module that has kernels has its own.
FAIL = """
define internal void @planish.fail(ptr %status, i64 %site, i64 %index, i64 %bound)
    cold noinline nounwind uwtable {
entry:
  %pair = cmpxchg ptr %status, i64 0, i64 1 acq_rel monotonic
  %first = extractvalue { i64, i1 } %pair, 1
  br i1 %first, label %report, label %done
report:
  %a = getelementptr i64, ptr %status, i64 1
  store i64 %site, ptr %a
  %b = getelementptr i64, ptr %status, i64 2
  store i64 %index, ptr %b
  %c = getelementptr i64, ptr %status, i64 3
  store i64 %bound, ptr %c
  br label %done
done:
  ret void
}
!0 = !{!"branch_weights", i32 1, i32 1048575}
"""

# Pool memory, in cache lines: 0 generation (a word to wait for), 1 done (likewise),
# 2 job, argument, threads, stop.
_POOL = """
define void @planish_worker(ptr %pool, i64 %thread) nounwind uwtable {
entry:
  %done = getelementptr i8, ptr %pool, i64 64
  %job = getelementptr i8, ptr %pool, i64 128
  %argument = getelementptr i8, ptr %pool, i64 136
  %threads = getelementptr i8, ptr %pool, i64 144
  %stop = getelementptr i8, ptr %pool, i64 152
  br label %next
next:
  %seen = phi i32 [ 0, %entry ], [ %now, %work ]
  call void @planish.wait(ptr %pool, i32 %seen)
  %now = load atomic i32, ptr %pool acquire, align 4
  %end = load i64, ptr %stop, align 8
  %ended = icmp ne i64 %end, 0
  br i1 %ended, label %leave, label %work
work:
  %f = load ptr, ptr %job, align 8
  %x = load ptr, ptr %argument, align 8
  %n = load i64, ptr %threads, align 8
  call void %f(ptr %x, i64 %thread, i64 %n)
  %old = atomicrmw add ptr %done, i32 1 seq_cst
  call void @planish.wake(ptr %done)
  br label %next
leave:
  ret void
}

define void @planish_run(ptr %pool, ptr %f, ptr %x, i64 %n) nounwind uwtable {
entry:
  %done = getelementptr i8, ptr %pool, i64 64
  %job = getelementptr i8, ptr %pool, i64 128
  %argument = getelementptr i8, ptr %pool, i64 136
  %threads = getelementptr i8, ptr %pool, i64 144
  store ptr %f, ptr %job, align 8
  store ptr %x, ptr %argument, align 8
  store i64 %n, ptr %threads, align 8
  store atomic i32 0, ptr %done monotonic, align 4
  %old = atomicrmw add ptr %pool, i32 1 seq_cst
  call void @planish.wake(ptr %pool)
  call void %f(ptr %x, i64 0, i64 %n)
  %n32 = trunc i64 %n to i32
  %others = sub i32 %n32, 1
  br label %check
check:
  %count = load atomic i32, ptr %done acquire, align 4
  %all = icmp eq i32 %count, %others
  br i1 %all, label %leave, label %wait
wait:
  call void @planish.wait(ptr %done, i32 %count)
  br label %check
leave:
  ret void
}

define void @planish_rouse(ptr %pool) nounwind uwtable {
entry:
  call void @planish.wake(ptr %pool)
  ret void
}

define void @planish_stop(ptr %pool) nounwind uwtable {
entry:
  %stop = getelementptr i8, ptr %pool, i64 152
  store i64 1, ptr %stop, align 8
  %old = atomicrmw add ptr %pool, i32 1 seq_cst
  call void @planish.wake(ptr %pool)
  ret void
}
"""
