"""The pure room: what a picker knows and decides, without I/O, clock, chance or logging."""
