/* A stand-in for the NVIDIA management library: answers as DRIVER, CUDA and CAPABILITY say, and like a DGX Spark it
   does not know how much memory the GPU has. */
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3 };

int nvmlInitWithFlags(unsigned flags) { return SUCCESS; }
int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return "as told"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 1;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = device;
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    strncpy(name, "NVIDIA GB10", length);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, void *memory) { return NOT_SUPPORTED; }

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    *major = atoi(getenv("CAPABILITY"));
    *minor = 1;
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    strncpy(version, getenv("DRIVER"), length);
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = atoi(getenv("CUDA"));
    return SUCCESS;
}
