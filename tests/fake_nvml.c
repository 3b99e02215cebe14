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

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    strncpy(uuid, "GPU-1", length);
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
    rates[0] = 96;
    rates[1] = 0;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    *milliwatts = 92500;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    *celsius = 71;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *megahertz) {
    *megahertz = kind == 1 ? 2400 : 9999;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(void *device, int kind, unsigned *megahertz) {
    *megahertz = kind == 1 ? 3003 : 9999;
    return SUCCESS;
}

/* A GPU that does not count its energy. */
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) { return NOT_SUPPORTED; }

int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *bits) {
    *bits = 0x4 | 0x20;
    return SUCCESS;
}

struct field {
    unsigned id, scope;
    long long timestamp, latency;
    int type, result;
    unsigned long long value;
};

/* Nanoseconds: the number of the field in half seconds; one of them is not counted. */
int nvmlDeviceGetFieldValues(void *device, int count, struct field *fields) {
    for (int i = 0; i < count; i++) {
        fields[i].result = fields[i].id == 271 ? NOT_SUPPORTED : SUCCESS;
        fields[i].value = fields[i].id * 500000000ull;
    }
    return SUCCESS;
}
