"""The pure core: what calls are, who rings and who talks. No I/O, no clock, no logging."""
