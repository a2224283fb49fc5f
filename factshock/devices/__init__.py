"""Devices and their host: meshes, host memory, the compilation cache."""
