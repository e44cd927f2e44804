"""Which functions artifacts have for C: who loads one needs to know no more of host code."""

ABI = 5
