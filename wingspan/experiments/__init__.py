"""Studies by name: one declarative file each. A file defines `study(scale) -> Study` and lists its `SCALES`."""
