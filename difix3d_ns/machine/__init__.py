"""What this machine can do: driver, torch, CUDA toolkit, gsplat's kernels and networks. Nothing here needs a GPU."""
