"""OpenVINO on CPUs: what its kernels take, and which activations it has only a reference kernel for, its faults."""
