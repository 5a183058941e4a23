// A stand-in for libnvidia-ml.so.1 where there is no GPU: built by the tests, never shipped. Layouts and numbers are written
// from the published header (nvml.h, NVML API 13) and were compared to it: sizes and offsets are asserted below.
//
// It reads what it says from the file that has its own path and ".state" behind it, again after each change:
//
//   KEY VALUE            a value; hexadecimal with 0x
//   KEY error NUMBER     the function answers with this error
//   KEY hang             the function does not come back before the line has changed
//
// Keys: init, stack (bytes that init uses of it), count, driver, cuda; N.uuid, N.name, N.utilization ... of GPU N; N.mig.M.uuid ... of its instance M;
// N.field.ID; N.compute and N.graphics: PID:BYTES[:GI:CI],...; N.use: PID:TIME:SM:MEMORY:ENCODER:DECODER,...;
// events: N:XID,... are given out once for each new value of "events.serial".
// With -DGENERATION=1 it has the functions of a driver of 2015 only.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#ifndef GENERATION
#define GENERATION 3
#endif

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10 };

typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned pid; unsigned long long used; } Process1;
typedef struct { unsigned pid; unsigned long long used; unsigned gpuInstance, computeInstance; } Process;
typedef struct { unsigned pid; unsigned long long time; unsigned sm, memory, encoder, decoder; } ProcessUse;
typedef struct { unsigned long long time; unsigned pid, sm, memory, encoder, decoder, jpeg, ofa; } ProcessUse2;
typedef struct { unsigned version, count; unsigned long long since; ProcessUse2 *list; } ProcessesUse;
typedef struct { unsigned id, scope; long long timestamp, latency; int type, result; union { double d; unsigned u; unsigned long long ull; int s; long long sll; unsigned short us; } value; } Field;
typedef struct { void *device; unsigned long long type, data; unsigned gpuInstance, computeInstance; } Event;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
typedef struct { unsigned version, sensor; int temperature; } Temperature;
typedef struct { unsigned version, fan, speed; } FanSpeed;

#define SIZE(type, size) _Static_assert(sizeof(type) == (size), #type)
#define OFFSET(type, member, offset) _Static_assert(offsetof(type, member) == (offset), #type "." #member)
SIZE(Utilization, 8); SIZE(Memory, 24); SIZE(Memory2, 40); OFFSET(Memory2, reserved, 16); OFFSET(Memory2, used, 32);
SIZE(Process1, 16); SIZE(Process, 24); OFFSET(Process, used, 8); OFFSET(Process, gpuInstance, 16);
SIZE(ProcessUse, 32); OFFSET(ProcessUse, time, 8); OFFSET(ProcessUse, sm, 16); OFFSET(ProcessUse, decoder, 28);
SIZE(ProcessUse2, 40); OFFSET(ProcessUse2, pid, 8); OFFSET(ProcessUse2, sm, 12);
SIZE(ProcessesUse, 24); OFFSET(ProcessesUse, since, 8); OFFSET(ProcessesUse, list, 16);
SIZE(Field, 40); OFFSET(Field, type, 24); OFFSET(Field, result, 28); OFFSET(Field, value, 32);
SIZE(Event, 32); OFFSET(Event, type, 8); OFFSET(Event, data, 16); OFFSET(Event, gpuInstance, 24);
SIZE(Pci, 68); OFFSET(Pci, bus_id, 36); SIZE(Temperature, 12); SIZE(FanSpeed, 12);

static char *state;
static struct timespec changed;
static off_t length;
static int initialized;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void load(void) {
  static char path[4096];
  if (!path[0]) {
    Dl_info info;
    dladdr((void *)&load, &info);
    snprintf(path, sizeof path, "%s.state", info.dli_fname);
  }
  struct stat now;
  if (stat(path, &now) != 0) return;
  if (state && now.st_mtim.tv_nsec == changed.tv_nsec && now.st_mtim.tv_sec == changed.tv_sec && now.st_size == length) return;
  FILE *file = fopen(path, "r");
  if (!file) return;
  free(state);
  state = malloc(now.st_size + 2);
  state[0] = '\n';
  size_t read = fread(state + 1, 1, now.st_size, file);
  state[read + 1] = 0;
  fclose(file);
  changed = now.st_mtim;
  length = now.st_size;
}

// The value of a key, up to the line's end; 0 where there is none.
static int find(const char *key, char *value, size_t size) {
  pthread_mutex_lock(&lock);
  load();
  char line[256];
  snprintf(line, sizeof line, "\n%s ", key);
  char *found = state ? strstr(state, line) : NULL;
  if (found) {
    found += strlen(line);
    size_t count = strcspn(found, "\n");
    if (count >= size) count = size - 1;
    memcpy(value, found, count);
    value[count] = 0;
  }
  pthread_mutex_unlock(&lock);
  return found != NULL;
}

// What the function of a key answers, and the key's text.
static int text(const char *key, char *value, size_t size) {
  while (1) {
    if (!find(key, value, size)) return NOT_SUPPORTED;
    if (strcmp(value, "hang") != 0) break;
    usleep(5000);
  }
  if (strncmp(value, "error ", 6) == 0) return atoi(value + 6);
  return SUCCESS;
}

static int number(const char *key, unsigned long long *value) {
  char found[64];
  int result = text(key, found, sizeof found);
  if (result == SUCCESS) *value = strtoull(found, NULL, 0);
  return result;
}

// A device is its GPU's number plus 1, and for an instance 1000 times its number plus 1 on top.
static void key_of(void *device, const char *name, char *key, size_t size) {
  uintptr_t id = (uintptr_t)device, instance = id / 1000;
  if (instance > 0) snprintf(key, size, "%lu.mig.%lu.%s", id % 1000 - 1, instance - 1, name);
  else snprintf(key, size, "%lu.%s", id - 1, name);
}

static int of(void *device, const char *name, unsigned long long *value) {
  char key[128], all[32];
  if (!initialized) return UNINITIALIZED;
  // Ends all of a GPU at once.
  key_of(device, "all", key, sizeof key);
  if (find(key, all, sizeof all) && text(key, all, sizeof all) != SUCCESS) return text(key, all, sizeof all);
  key_of(device, name, key, sizeof key);
  return number(key, value);
}

static int text_of(void *device, const char *name, char *value, unsigned size) {
  char key[128], all[32];
  if (!initialized) return UNINITIALIZED;
  key_of(device, "all", key, sizeof key);
  if (find(key, all, sizeof all) && text(key, all, sizeof all) != SUCCESS) return text(key, all, sizeof all);
  key_of(device, name, key, sizeof key);
  return text(key, value, size);
}

static int u32(void *device, const char *name, unsigned *value) {
  unsigned long long found = 0;
  int result = of(device, name, &found);
  if (result == SUCCESS) *value = (unsigned)found;
  return result;
}

static int indexed(void *device, const char *name, unsigned kind, unsigned *value) {
  char key[64];
  snprintf(key, sizeof key, "%s.%u", name, kind);
  return u32(device, key, value);
}

static int start(void) {
  unsigned long long ignored, stack = 0;
  // Drivers use more of it than 128 KiB.
  if (number("stack", &stack) == SUCCESS) {
    volatile char *bytes = __builtin_alloca(stack);
    for (unsigned long long at = 0; at < stack; at += 4096) bytes[at] = 1;
  }
  int result = number("init", &ignored);
  if (result == SUCCESS || result == NOT_SUPPORTED) initialized = 1, result = SUCCESS;
  return result;
}
static int count(unsigned *value) {
  unsigned long long found = 0;
  if (!initialized) return UNINITIALIZED;
  int result = number("count", &found);
  *value = (unsigned)found;
  return result;
}
static int handle(unsigned index, void **device) {
  char key[64], value[32];
  unsigned gpus = 0;
  if (count(&gpus) != SUCCESS) return UNINITIALIZED;
  if (index >= gpus) return INVALID_ARGUMENT;
  snprintf(key, sizeof key, "%u.handle", index);
  if (find(key, value, sizeof value)) { int result = text(key, value, sizeof value); if (result != SUCCESS) return result; }
  *device = (void *)(uintptr_t)(index + 1);
  return SUCCESS;
}
static int pci(void *device, Pci *info) {
  unsigned long long bus = 0;
  int result = of(device, "pci", &bus);
  if (result != SUCCESS) return result;
  memset(info, 0, sizeof *info);
  info->domain = (unsigned)(bus >> 16), info->bus = (unsigned)(bus >> 8) & 0xff, info->device = (unsigned)bus & 0xff;
  return SUCCESS;
}

int nvmlShutdown(void) { initialized = 0; return SUCCESS; }
int nvmlSystemGetDriverVersion(char *value, unsigned size) { return text("driver", value, size); }
int nvmlDeviceGetUUID(void *device, char *value, unsigned size) { return text_of(device, "uuid", value, size); }
int nvmlDeviceGetName(void *device, char *value, unsigned size) { return text_of(device, "name", value, size); }
int nvmlSystemGetCudaDriverVersion(int *value) {
  unsigned long long found = 0;
  int result = number("cuda", &found);
  *value = (int)found;
  return result;
}
int nvmlDeviceGetUtilizationRates(void *device, Utilization *value) {
  int result = u32(device, "utilization", &value->gpu);
  return result == SUCCESS ? u32(device, "memory_utilization", &value->memory) : result;
}
int nvmlDeviceGetEncoderUtilization(void *device, unsigned *value, unsigned *period) { *period = 167000; return u32(device, "encoder", value); }
int nvmlDeviceGetDecoderUtilization(void *device, unsigned *value, unsigned *period) { *period = 167000; return u32(device, "decoder", value); }
int nvmlDeviceGetMemoryInfo(void *device, Memory *value) {
  int result = of(device, "memory.total", &value->total);
  if (result != SUCCESS) return result;
  of(device, "memory.free", &value->free);
  return of(device, "memory.used", &value->used);
}
int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *value) { return sensor == 0 ? u32(device, "temperature", value) : INVALID_ARGUMENT; }
int nvmlDeviceGetTemperatureThreshold(void *device, unsigned kind, unsigned *value) { return indexed(device, "threshold", kind, value); }
int nvmlDeviceGetPowerUsage(void *device, unsigned *value) { return u32(device, "power", value); }
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *value) { return u32(device, "power_limit", value); }
int nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned *least, unsigned *most) {
  *least = 0;
  return u32(device, "power_limit_max", most);
}
int nvmlDeviceGetClockInfo(void *device, unsigned kind, unsigned *value) { return indexed(device, "clock", kind, value); }
int nvmlDeviceGetMaxClockInfo(void *device, unsigned kind, unsigned *value) { return indexed(device, "clock_max", kind, value); }
int nvmlDeviceGetFanSpeed(void *device, unsigned *value) { return u32(device, "fan", value); }
int nvmlDeviceGetPcieThroughput(void *device, unsigned kind, unsigned *value) {
  int result = indexed(device, "pcie_throughput", kind, value);
  if (result == SUCCESS) usleep(20000);
  return result;
}
int nvmlDeviceGetPcieReplayCounter(void *device, unsigned *value) { return u32(device, "pcie_replays", value); }
int nvmlDeviceGetCurrPcieLinkGeneration(void *device, unsigned *value) { return u32(device, "pcie_generation", value); }
int nvmlDeviceGetMaxPcieLinkGeneration(void *device, unsigned *value) { return u32(device, "pcie_generation_max", value); }
int nvmlDeviceGetCurrPcieLinkWidth(void *device, unsigned *value) { return u32(device, "pcie_lanes", value); }
int nvmlDeviceGetMaxPcieLinkWidth(void *device, unsigned *value) { return u32(device, "pcie_lanes_max", value); }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *value) { return of(device, "throttle_reasons", value); }
int nvmlDeviceGetPerformanceState(void *device, unsigned *value) { return u32(device, "performance_state", value); }
int nvmlDeviceGetComputeMode(void *device, unsigned *value) { return u32(device, "compute_mode", value); }

// Splits "a:b:c,d:e:f" into rows of numbers.
static unsigned rows(const char *list, unsigned long long into[][8], unsigned most) {
  unsigned count = 0;
  while (*list && count < most) {
    unsigned part = 0;
    while (part < 8) {
      char *end;
      into[count][part++] = strtoull(list, &end, 0);
      list = end;
      if (*list != ':') break;
      list++;
    }
    while (part < 8) into[count][part++] = 0xffffffffull;
    count++;
    if (*list != ',') break;
    list++;
  }
  return count;
}

static int processes(void *device, const char *name, unsigned *count, void *into, int old) {
  static char list[65536];
  static unsigned long long parts[2000][8];
  int result = text_of(device, name, list, sizeof list);
  if (result == NOT_SUPPORTED) list[0] = 0, result = SUCCESS;
  if (result != SUCCESS) return result;
  unsigned found = rows(list, parts, 2000), room = *count;
  *count = found;
  if (found > room) return INSUFFICIENT_SIZE;
  for (unsigned place = 0; place < found; place++) {
    if (old) ((Process1 *)into)[place] = (Process1){(unsigned)parts[place][0], parts[place][1]};
    else ((Process *)into)[place] = (Process){(unsigned)parts[place][0], parts[place][1], (unsigned)parts[place][2], (unsigned)parts[place][3]};
  }
  return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses(void *device, unsigned *count, void *into) { return processes(device, "compute", count, into, 1); }
int nvmlDeviceGetGraphicsRunningProcesses(void *device, unsigned *count, void *into) { return processes(device, "graphics", count, into, 1); }

#if GENERATION == 1
int nvmlInit(void) { return start(); }
int nvmlDeviceGetCount(unsigned *value) { return count(value); }
int nvmlDeviceGetHandleByIndex(unsigned index, void **device) { return handle(index, device); }
int nvmlDeviceGetPciInfo(void *device, Pci *info) { return pci(device, info); }
#else
int nvmlInit_v2(void) { return start(); }
int nvmlDeviceGetCount_v2(unsigned *value) { return count(value); }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { return handle(index, device); }
int nvmlDeviceGetPciInfo_v3(void *device, Pci *info) { return pci(device, info); }
int nvmlSystemGetCudaDriverVersion_v2(int *value) { return nvmlSystemGetCudaDriverVersion(value); }
int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *value) { return of(device, "throttle_reasons", value); }
int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *value) { return indexed(device, "nvlink", link, value); }
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *later) { *later = 0; return u32(device, "mig_mode", now); }
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *value) { return u32(device, "mig_count", value); }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **instance) {
  char name[64], uuid[96];
  snprintf(name, sizeof name, "mig.%u.uuid", index);
  int result = text_of(device, name, uuid, sizeof uuid);
  if (result == NOT_SUPPORTED) return NOT_FOUND;
  *instance = (void *)((uintptr_t)device + 1000 * (index + 1));
  return result;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, Memory2 *value) {
  if (value->version != 0x02000028) return 25;
  int result = of(device, "memory.total", &value->total);
  if (result != SUCCESS) return result;
  of(device, "memory.reserved", &value->reserved);
  of(device, "memory.free", &value->free);
  return of(device, "memory.used", &value->used);
}
int nvmlDeviceGetTemperatureV(void *device, Temperature *value) {
  if (value->version != 0x0100000c) return 25;
  unsigned found = 0;
  int result = value->sensor == 0 ? u32(device, "temperature", &found) : INVALID_ARGUMENT;
  value->temperature = (int)found;
  return result;
}
int nvmlDeviceGetFanSpeedRPM(void *device, FanSpeed *value) { return value->version == 0x0100000c ? u32(device, "fan_revolutions", &value->speed) : 25; }
int nvmlDeviceGetFieldValues(void *device, int count, Field *fields) {
  unsigned long long ignored;
  int lost = of(device, "uuid", &ignored);
  if (lost != SUCCESS) return lost;
  for (int place = 0; place < count; place++) {
    Field *field = &fields[place];
    char key[64], value[64];
    snprintf(key, sizeof key, "field.%u", field->id);
    field->result = text_of(device, key, value, sizeof value);
    if (field->result != SUCCESS) continue;
    // TYPE:VALUE, or a value of 64 bits
    char *colon = strchr(value, ':');
    field->type = colon ? atoi(value) : 3;
    char *digits = colon ? colon + 1 : value;
    field->value.ull = 0;
    if (field->type == 0) field->value.d = atof(digits);
    else if (field->type == 1 || field->type == 5) field->value.u = (unsigned)strtoull(digits, NULL, 0);
    else field->value.ull = strtoull(digits, NULL, 0);
    if ((field->id == 138 || field->id == 139) && field->scope != 0xffffffffu) field->result = INVALID_ARGUMENT;
  }
  return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, void *into) { return processes(device, "compute", count, into, 0); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, void *into) { return processes(device, "graphics", count, into, 0); }

static unsigned uses(void *device, unsigned long long since, unsigned long long into[][8], int *result) {
  static char list[65536];
  *result = text_of(device, "use", list, sizeof list);
  if (*result != SUCCESS) return 0;
  unsigned found = rows(list, into, 2000), kept = 0;
  for (unsigned place = 0; place < found; place++)
    if (into[place][1] > since) memmove(into[kept++], into[place], sizeof into[0]);
  if (kept == 0) *result = NOT_FOUND;
  return kept;
}
#if GENERATION != 4
int nvmlDeviceGetProcessUtilization(void *device, ProcessUse *list, unsigned *count, unsigned long long since) {
  static unsigned long long parts[2000][8];
  int result;
  unsigned found = uses(device, since, parts, &result), room = *count;
  *count = found;
  if (result != SUCCESS) return result;
  if (found > room) return INSUFFICIENT_SIZE;
  for (unsigned place = 0; place < found; place++) {
    unsigned long long *part = parts[place];
    list[place] = (ProcessUse){(unsigned)part[0], part[1], (unsigned)part[2], (unsigned)part[3], (unsigned)part[4], (unsigned)part[5]};
  }
  return SUCCESS;
}
#endif
int nvmlDeviceGetProcessesUtilizationInfo(void *device, ProcessesUse *info) {
  static unsigned long long parts[2000][8];
  if (info->version != 0x01000018) return 25;
  int result;
  unsigned found = uses(device, info->since, parts, &result), room = info->count;
  info->count = found;
  if (result != SUCCESS) return result;
  if (found > room) return INSUFFICIENT_SIZE;
  for (unsigned place = 0; place < found; place++) {
    unsigned long long *part = parts[place];
    info->list[place] = (ProcessUse2){part[1], (unsigned)part[0], (unsigned)part[2], (unsigned)part[3], (unsigned)part[4], (unsigned)part[5], 0, 0};
  }
  return SUCCESS;
}

static unsigned long long registered;
int nvmlEventSetCreate(void **set) { *set = (void *)4711; return SUCCESS; }
int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
  if (set != (void *)4711 || types != 8) return INVALID_ARGUMENT;
  registered |= 1ull << (uintptr_t)device;
  return SUCCESS;
}
int nvmlEventSetWait_v2(void *set, Event *event, unsigned timeout) {
  static unsigned long long serial = 0, given = 0;
  unsigned long long now = 0, parts[2000][8];
  char list[4096];
  if (set != (void *)4711) return INVALID_ARGUMENT;
  if (!initialized) return UNINITIALIZED;
  if (number("events.serial", &now) == SUCCESS && now != serial) serial = now, given = 0;
  unsigned found = text("events", list, sizeof list) == SUCCESS && serial > 0 ? rows(list, parts, 2000) : 0;
  while (given < found && !(registered & 1ull << (parts[given][0] + 1))) given++;
  if (given >= found) { usleep(timeout * 1000); return TIMEOUT; }
  *event = (Event){(void *)(uintptr_t)(parts[given][0] + 1), 8, parts[given][1], 0xffffffffu, 0xffffffffu};
  given++;
  return SUCCESS;
}
#endif
