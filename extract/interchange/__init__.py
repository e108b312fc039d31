"""Features out of a cache for other programs, and features made elsewhere into one."""
