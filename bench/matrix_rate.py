"""The rate at which this machine multiplies bf16 matrices: `python bench/matrix_rate.py` prints FLOP per second."""

import json
import time

import torch

HAS_GPU = torch.cuda.is_available()
SIZE = 8192 if HAS_GPU else 512
REPEATS = 50 if HAS_GPU else 5


def main() -> None:
    device = "cuda" if HAS_GPU else "cpu"
    a, b = (torch.randn(SIZE, SIZE, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    synchronise()
    began = time.perf_counter()
    for _ in range(REPEATS):
        a @ b
    synchronise()
    rate = 2 * SIZE**3 * REPEATS / (time.perf_counter() - began)
    name = torch.cuda.get_device_name() if HAS_GPU else "CPU"
    print(
        json.dumps({"flops_per_second": rate, "device": name, "torch": torch.__version__, "cuda": torch.version.cuda})
    )


def synchronise() -> None:
    if HAS_GPU:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
