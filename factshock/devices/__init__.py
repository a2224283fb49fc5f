"""Where it computes: meshes of devices, host memory, the compilation cache."""
