// A stand-in for NVIDIA's driver library (libcuda.so.1), for the bindings of CUDA's driver API.
//
// Device memory is host memory. Queued work runs late: only when the host synchronizes with it. The rules that a real GPU does not
// report, or reports as a crash much later, end the process with status 70 and one line "fake_libcuda: RULE: details".
//
// Environment variables:
//   FAKE_CUDA_DEVICES  "name|UUID|free MB|total MB|major.minor;…"; the UUID has the prefix GPU- or MIG-
//   FAKE_CUDA_DRIVER   the version that the driver supports, such as 13000
//   FAKE_CUDA_FAIL     "function:call:status,…": the call with this number, counted from 1, returns the status; some statuses remain
//   FAKE_CUDA_FOREIGN  the flags of a primary context that another library created before
//   FAKE_CUDA_LOG      a file that receives the name of each function, and at the end what is left
//   CUDA_VISIBLE_DEVICES as the real driver reads it

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK, INVALID, NO_MEMORY, NOT_INITIALIZED, NO_DEVICE = 100, INVALID_DEVICE, INVALID_CONTEXT = 201, INVALID_HANDLE = 400,
       NOT_FOUND = 500, NOT_READY = 600, CONTEXT_ACTIVE = 708 };
enum { ANY, CONTEXT, WAITS };  // needs nothing; needs a context; waits or allocates, which a capturing thread must not do
enum { COPY, SET, RECORD, WAIT, KERNEL };
enum { MAX_TASKS = 32, POINTERS = 3, MAX_POINTERS = MAX_TASKS * POINTERS, BLOCKING_SYNC = 4, THREAD_LOCAL = 1 };

typedef struct Stream Stream;
typedef struct Device Device;
typedef struct { int alive, timed; long recorded, passed, time; Stream *of; } Event;
typedef struct Op {
    int kind, value;
    char *to, *from, *owned;
    size_t size;
    Event *event;
    long number;
    Stream *of;
    char *pointers[MAX_POINTERS];
    struct Op *next;
} Op;
typedef struct { Op *first; } Graph;
struct Stream { Op *first; int alive; Graph *capturing; pthread_t by; Stream *next; };
struct Device { char name[128]; unsigned char uuid[16]; size_t free, total; int major, minor, active; unsigned flags; Stream legacy; };
typedef struct Block { char *at; size_t size; int alive, host; Device *device; struct Block *next; } Block;
typedef struct { char name[64]; size_t size; } Function;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;  // guards everything below, held during each call
static Device devices[8];
static int device_count, started, lost;
static Block *blocks;
static Stream *streams;
static long clock_ticks, left_streams, left_events, left_graphs;
static struct { char name[64]; int call, status, seen; } failures[8];
static int failure_count;
static FILE *call_log;
static __thread Device *current;
static __thread Stream *recording;

static void violation(const char *rule, const char *details, ...) {
    va_list values;
    va_start(values, details);
    fprintf(stderr, "fake_libcuda: %s: ", rule);
    vfprintf(stderr, details, values);
    fprintf(stderr, "\n");
    fflush(NULL);
    _exit(70);
}

// ---- configuration

static void parse_uuid(const char *text, unsigned char *uuid) {
    int digits = 0;
    for (const char *digit = strchr(text, '-') + 1; *digit && digits < 32; digit++)
        if (*digit != '-') {
            int value = *digit <= '9' ? *digit - '0' : (*digit | 32) - 'a' + 10;
            uuid[digits / 2] = (unsigned char)(digits % 2 ? uuid[digits / 2] | value : value << 4);
            digits++;
        }
}

static int selected(char texts[][64], int count, const char *wanted) {
    if (*wanted >= '0' && *wanted <= '9') return atoi(wanted) < count ? atoi(wanted) : -1;
    for (int index = 0; index < count; index++)
        if (*wanted && !strncmp(texts[index], wanted, strlen(wanted))) return index;
    return -1;
}

__attribute__((constructor)) static void configure(void) {
    const char *given = getenv("FAKE_CUDA_DEVICES"), *foreign = getenv("FAKE_CUDA_FOREIGN"), *log = getenv("FAKE_CUDA_LOG");
    char text[2048], *rest, uuids[8][64];
    snprintf(text, sizeof text, "%s", given ? given : "NVIDIA Stand-In|GPU-00000000-0000-0000-0000-000000000001|8000|9000|19.9");
    Device all[8] = {0};
    int count = 0;
    for (char *one = strtok_r(text, ";", &rest); one && count < 8; one = strtok_r(NULL, ";", &rest), count++) {
        Device *device = &all[count];
        double free_mb, total_mb;
        if (sscanf(one, "%127[^|]|%63[^|]|%lf|%lf|%d.%d", device->name, uuids[count], &free_mb, &total_mb, &device->major,
                   &device->minor) != 6)
            violation("configuration", "FAKE_CUDA_DEVICES: %s", one);
        device->free = (size_t)(free_mb * 1e6), device->total = (size_t)(total_mb * 1e6);
        parse_uuid(uuids[count], device->uuid);
        if (foreign) device->active = 1, device->flags = (unsigned)atoi(foreign);
    }
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (!visible) {
        memcpy(devices, all, sizeof all);
        device_count = count;
    } else {
        snprintf(text, sizeof text, "%s", visible);
        for (char *one = strtok_r(text, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
            int index = selected(uuids, count, one);
            if (index < 0) break;  // the driver ignores everything after the first one that does not exist
            devices[device_count++] = all[index];
        }
    }
    snprintf(text, sizeof text, "%s", getenv("FAKE_CUDA_FAIL") ? getenv("FAKE_CUDA_FAIL") : "");
    for (char *one = strtok_r(text, ",", &rest); one; one = strtok_r(NULL, ",", &rest), failure_count++)
        if (sscanf(one, "%63[^:]:%d:%d", failures[failure_count].name, &failures[failure_count].call,
                   &failures[failure_count].status) != 3)
            violation("configuration", "FAKE_CUDA_FAIL: %s", one);
    if (log) call_log = fopen(log, "w");
}

__attribute__((destructor)) static void report(void) {
    long memory[2] = {0, 0};
    for (Block *block = blocks; block; block = block->next) memory[block->host] += block->alive;
    if (call_log)
        fprintf(call_log, "left: %ld streams, %ld events, %ld graphs, %ld device blocks, %ld host blocks\n", left_streams,
                left_events, left_graphs, memory[0], memory[1]), fclose(call_log);
}

static void leave(int *held) {
    if (*held) pthread_mutex_unlock(&mutex);
}

static int enter(const char *name, int kind, int *held) {
    pthread_mutex_lock(&mutex);
    *held = 1;
    if (call_log) fprintf(call_log, "%s\n", name), fflush(call_log);
    if (kind == WAITS && recording) violation("call-during-capture", "%s", name);
    for (int index = 0; index < failure_count; index++)
        if (!strcmp(failures[index].name, name) && ++failures[index].seen == failures[index].call) {
            int status = failures[index].status;
            if (status == 46 || status == 214 || (status >= 700 && status < 720) || status == 999) lost = status;
            return status;
        }
    if (kind != ANY && lost) return lost;
    if (kind != ANY && !current) return INVALID_CONTEXT;
    return OK;
}

#define ENTER(KIND) \
    int held __attribute__((cleanup(leave))) = 0; \
    int refused = enter(__func__, KIND, &held); \
    if (refused) return refused

// ---- memory and queued work

static Block *block_at(const char *at, size_t size, int host) {
    for (Block *block = blocks; block; block = block->next)
        if (block->host == host && block->alive && at >= block->at && at + size <= block->at + block->size) return block;
    return NULL;
}

static void need_block(const char *at, size_t size, const char *what) {
    if (!block_at(at, size, 0)) violation("memory-not-allocated", "%s of %zu bytes at %p", what, size, (const void *)at);
}

static void run_until(Stream *stream, Event *event, long number);

static void run(Op *op) {
    switch (op->kind) {
        case COPY:
            if (op->value & 1) need_block(op->to, op->size, "copy to");
            if (op->value & 2) need_block(op->from, op->size, "copy from");
            memcpy(op->to, op->from, op->size);
            break;
        case SET: need_block(op->to, op->size, "memset"); memset(op->to, op->value, op->size); break;
        case RECORD: op->event->passed = op->number, op->event->time = ++clock_ticks; break;
        case WAIT: run_until(op->of, op->event, op->number); break;
        case KERNEL:
            for (int index = 0; index < op->value; index++) need_block(op->pointers[index], 1, "kernel argument");
    }
    free(op->owned);
    free(op);
}

static void run_until(Stream *stream, Event *event, long number) {
    while (stream->first && !(event && event->passed >= number)) {
        Op *op = stream->first;
        stream->first = op->next;
        run(op);
    }
}

static void append(Op **first, Op op) {
    while (*first) first = &(*first)->next;
    *first = malloc(sizeof op);
    op.next = NULL;
    **first = op;
}

static int put(Stream *stream, Op op) {
    if (!stream->capturing) {
        if (recording && stream == &current->legacy) violation("legacy-stream-during-capture", "kind %d", op.kind);
        append(&stream->first, op);
    } else if (!pthread_equal(stream->by, pthread_self()))
        violation("capture-of-another-thread", "kind %d", op.kind);
    else
        append(&stream->capturing->first, op);
    return OK;
}

static int in_use(Op *op, Block *block) {
    for (; op; op = op->next) {
        char *ends[2] = {op->to, op->from};
        for (int end = 0; end < 2; end++)
            if (ends[end] && op->size && ends[end] < block->at + block->size && ends[end] + op->size > block->at) return 1;
        for (int index = 0; op->kind == KERNEL && index < op->value; index++)
            if (op->pointers[index] >= block->at && op->pointers[index] < block->at + block->size) return 1;
    }
    return 0;
}

static int release(char *at, int host) {
    for (Block *block = blocks; block; block = block->next)
        if (block->at == at && block->alive && block->host == host) {
            for (Stream *stream = streams; stream; stream = stream->next)
                if (in_use(stream->first, block)) violation("memory-freed-in-use", "%zu bytes", block->size);
            if (in_use(current->legacy.first, block)) violation("memory-freed-in-use", "%zu bytes", block->size);
            memset(block->at, 255, block->size);  // never returned to the system, so that a late use is reported, not a crash
            block->alive = 0;
            if (!host) block->device->free += block->size;
            return OK;
        }
    return INVALID;
}

static int reserve(void **at, size_t size, int host) {
    Block *block = calloc(1, sizeof *block);
    if (!size || posix_memalign((void **)&block->at, 256, size)) return INVALID;
    memset(block->at, 0xA5, size);
    block->size = size, block->alive = 1, block->host = host, block->device = current, block->next = blocks;
    blocks = block, *at = block->at;
    return OK;
}

static Stream *stream_of(void *handle) {
    if (handle == NULL || handle == (void *)1) return &current->legacy;
    Stream *stream = handle;
    if (!stream->alive) violation("stream-destroyed", "%p", handle);
    return stream;
}

static Event *event_of(void *handle) {
    Event *event = handle;
    if (!event || !event->alive) violation("event-destroyed", "%p", handle);
    return event;
}

static Event *recorded(void *handle, const char *name) {
    Event *event = event_of(handle);
    if (!event->recorded) violation("event-not-recorded", "%s", name);
    return event;
}

// ---- the driver's functions

static int cuInit(unsigned flags) {
    ENTER(ANY);
    if (flags || !device_count) return flags ? INVALID : NO_DEVICE;
    started = 1;
    return OK;
}

static int cuDriverGetVersion(int *version) {
    ENTER(ANY);
    *version = getenv("FAKE_CUDA_DRIVER") ? atoi(getenv("FAKE_CUDA_DRIVER")) : 13000;
    return OK;
}

static int cuDeviceGetCount(int *count) {
    ENTER(ANY);
    *count = device_count;
    return started ? OK : NOT_INITIALIZED;
}

static int cuDeviceGet(int *device, int index) {
    ENTER(ANY);
    *device = index;
    return !started ? NOT_INITIALIZED : index < 0 || index >= device_count ? INVALID_DEVICE : OK;
}

static int cuDeviceGetName(char *name, int size, int device) {
    ENTER(ANY);
    snprintf(name, (size_t)size, "%s", devices[device].name);
    return OK;
}

static int cuDeviceGetUuid(void *uuid, int device) {
    ENTER(ANY);
    memcpy(uuid, devices[device].uuid, 16);
    return OK;
}

static int cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER(ANY);
    if (attribute != 75 && attribute != 76) return INVALID;
    *value = attribute == 75 ? devices[device].major : devices[device].minor;
    return OK;
}

static int cuDevicePrimaryCtxSetFlags(int device, unsigned flags) {
    ENTER(ANY);
    if (devices[device].active && flags != devices[device].flags) return CONTEXT_ACTIVE;
    devices[device].flags = flags;
    return OK;
}

static int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    ENTER(ANY);
    *flags = devices[device].flags, *active = devices[device].active;
    return OK;
}

static int cuDevicePrimaryCtxRetain(void **context, int device) {
    ENTER(ANY);
    if (!devices[device].active && devices[device].flags != BLOCKING_SYNC)
        violation("context-flags", "%u instead of %d", devices[device].flags, BLOCKING_SYNC);
    devices[device].active = 1;
    *context = &devices[device];
    return OK;
}

static int cuCtxSetCurrent(void *context) {
    ENTER(ANY);
    current = context;
    return lost ? lost : OK;
}

static int cuMemGetInfo(size_t *available, size_t *total) {
    ENTER(CONTEXT);
    *available = current->free, *total = current->total;
    return OK;
}

static int cuMemAlloc(void **at, size_t size) {
    ENTER(WAITS);
    if (size > current->free) return NO_MEMORY;
    current->free -= size;
    return reserve(at, size, 0);
}

static int cuMemHostAlloc(void **at, size_t size, unsigned flags) {
    ENTER(WAITS);
    (void)flags;
    return reserve(at, size, 1);
}

static int cuMemFree(char *at) {
    ENTER(WAITS);
    return release(at, 0);
}

static int cuMemFreeHost(char *at) {
    ENTER(WAITS);
    return release(at, 1);
}

static int cuMemsetD8Async(char *at, unsigned char value, size_t size, void *stream) {
    ENTER(CONTEXT);
    need_block(at, size, "memset");
    return put(stream_of(stream), (Op){.kind = SET, .to = at, .value = value, .size = size});
}

static int cuMemcpyHtoDAsync(char *to, char *from, size_t size, void *stream) {
    ENTER(CONTEXT);
    need_block(to, size, "copy to");
    Op op = {.kind = COPY, .to = to, .from = from, .size = size, .value = 1};
    if (!block_at(from, size, 1)) op.from = op.owned = memcpy(malloc(size), from, size);  // pageable memory is copied at once
    return put(stream_of(stream), op);
}

static int cuMemcpyDtoHAsync(char *to, char *from, size_t size, void *stream) {
    ENTER(CONTEXT);
    need_block(from, size, "copy from");
    int pageable = !block_at(to, size, 1);
    if (pageable && recording) violation("call-during-capture", "copy to pageable memory");
    put(stream_of(stream), (Op){.kind = COPY, .to = to, .from = from, .size = size, .value = 2});
    if (pageable) run_until(stream_of(stream), NULL, 0);  // the driver waits
    return OK;
}

static int cuMemcpyDtoDAsync(char *to, char *from, size_t size, void *stream) {
    ENTER(CONTEXT);
    need_block(to, size, "copy to");
    need_block(from, size, "copy from");
    return put(stream_of(stream), (Op){.kind = COPY, .to = to, .from = from, .size = size, .value = 3});
}

static int cuStreamCreate(void **made, unsigned flags) {
    ENTER(CONTEXT);
    if (flags != 1) violation("stream-not-independent", "flags %u: it would wait for the legacy stream", flags);
    Stream *stream = calloc(1, sizeof *stream);
    stream->alive = 1, stream->next = streams, streams = stream, *made = stream, left_streams++;
    return OK;
}

static int cuStreamSynchronize(void *handle) {
    ENTER(WAITS);
    run_until(stream_of(handle), NULL, 0);
    return OK;
}

static int cuStreamDestroy(void *handle) {
    ENTER(CONTEXT);
    Stream *stream = stream_of(handle);
    if (stream->first) violation("stream-destroyed-with-work", "%p", handle);
    stream->alive = 0, left_streams--;
    return OK;
}

static int cuStreamWaitEvent(void *handle, void *event, unsigned flags) {
    ENTER(CONTEXT);
    (void)flags;
    Event *of = recorded(event, __func__);
    return put(stream_of(handle), (Op){.kind = WAIT, .event = of, .number = of->recorded, .of = of->of});
}

static int cuEventCreate(void **made, unsigned flags) {
    ENTER(CONTEXT);
    if (!(flags & 1)) violation("event-that-spins", "flags %u: threads that wait for it would use a core", flags);
    Event *event = calloc(1, sizeof *event);
    event->alive = 1, event->timed = !(flags & 2), *made = event, left_events++;
    return OK;
}

static int cuEventRecord(void *handle, void *stream) {
    ENTER(CONTEXT);
    Event *event = event_of(handle);
    event->of = stream_of(stream);
    return put(event->of, (Op){.kind = RECORD, .event = event, .number = ++event->recorded});
}

static int cuEventSynchronize(void *handle) {
    ENTER(WAITS);
    Event *event = recorded(handle, __func__);
    run_until(event->of, event, event->recorded);
    return OK;
}

static int cuEventElapsedTime(float *milliseconds, void *first, void *last) {
    ENTER(CONTEXT);
    Event *from = recorded(first, __func__), *to = recorded(last, __func__);
    if (!from->timed || !to->timed) return INVALID_HANDLE;
    if (from->passed < from->recorded || to->passed < to->recorded) return NOT_READY;
    *milliseconds = (float)(to->time - from->time) * 0.001f;
    return OK;
}

static int cuEventDestroy(void *handle) {
    ENTER(CONTEXT);
    event_of(handle)->alive = 0;  // never freed: queued work may still record it
    left_events--;
    return OK;
}

static int cuStreamBeginCapture(void *handle, int mode) {
    ENTER(CONTEXT);
    Stream *stream = stream_of(handle);
    if (mode != THREAD_LOCAL) violation("capture-mode", "%d: calls of other threads would end the capture", mode);
    if (stream == &current->legacy || stream->capturing || recording) return 900;
    stream->capturing = calloc(1, sizeof(Graph)), stream->by = pthread_self(), recording = stream, left_graphs++;
    return OK;
}

static int cuStreamEndCapture(void *handle, void **graph) {
    ENTER(CONTEXT);
    Stream *stream = stream_of(handle);
    if (!stream->capturing) return INVALID;
    *graph = stream->capturing, stream->capturing = NULL, recording = NULL;
    return OK;
}

static int cuGraphInstantiate(void **made, void *graph, unsigned long long flags) {
    ENTER(CONTEXT);
    (void)flags;
    Graph *copy = calloc(1, sizeof *copy);
    for (Op *op = ((Graph *)graph)->first; op; op = op->next) {
        if (op->owned) violation("capture-of-pageable-memory", "%zu bytes", op->size);
        append(&copy->first, *op);
    }
    *made = copy, left_graphs++;
    return OK;
}

static int cuGraphLaunch(void *graph, void *stream) {
    ENTER(CONTEXT);
    for (Op *op = ((Graph *)graph)->first; op; op = op->next) put(stream_of(stream), *op);
    return OK;
}

static int destroy_graph(Graph *graph) {
    for (Op *op = graph->first, *next; op; op = next) next = op->next, free(op->owned), free(op);
    free(graph);
    left_graphs--;
    return OK;
}

static int cuGraphDestroy(void *graph) {
    ENTER(CONTEXT);
    return destroy_graph(graph);
}

static int cuGraphExecDestroy(void *graph) {
    ENTER(CONTEXT);
    return destroy_graph(graph);
}

static int cuModuleLoadData(void **module, const char *image) {
    ENTER(WAITS);
    // PTX names the size of the kernels' argument: use a compute capability that NVRTC does not know, so that it makes PTX.
    if (!strncmp(image, "\177ELF", 4)) return 209;
    *module = strdup(image);
    return OK;
}

static int cuModuleGetFunction(void **made, const char *module, const char *name) {
    ENTER(CONTEXT);
    char entry[96];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    const char *at = strstr(module, entry), *end = at ? strchr(at + strlen(entry), ')') : NULL;
    if (!at) return NOT_FOUND;
    Function *function = calloc(1, sizeof *function);
    snprintf(function->name, sizeof function->name, "%s", name);
    // Each kernel has one argument: ".param .align 8 .b8 NAME_param_0[SIZE]".
    const char *size = strchr(at, '['), *other = strchr(at, ',');
    if (!size || size > end || (other && other < end)) return INVALID;
    function->size = strtoul(size + 1, NULL, 10);
    *made = function;
    return OK;
}

static int cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, void *stream, void **values, void **extra) {
    ENTER(CONTEXT);
    const char *name = function->name;
    if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024 || shared || extra) return INVALID;
    Op op = {.kind = KERNEL};
    // The argument is a table of tasks, one for each layer of the grid, which begin with their pointers.
    if (gz > MAX_TASKS) violation("kernel-arguments", "%s: %u tasks", name, gz);
    size_t size = function->size / MAX_TASKS;
    for (unsigned task = 0; task < gz; task++) {
        char *at = (char *)values[0] + task * size;
        for (int index = 0; index < POINTERS; index++) {
            memcpy(&op.pointers[op.value], at + index * 8, 8);
            need_block(op.pointers[op.value++], 1, "kernel argument");
        }
        for (size_t offset = POINTERS * 8; offset + 4 <= size; offset += 4) {  // sizes, colors and factors
            int32_t number;
            float real;
            memcpy(&number, at + offset, 4), memcpy(&real, at + offset, 4);
            if (abs(number) >= 1 << 24 && !(fabsf(real) > 1e-6f && fabsf(real) < 1e6f))
                violation("kernel-arguments", "%s: %d or %g at byte %zu", name, number, (double)real, offset);
        }
    }
    return put(stream_of(stream), op);
}

int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *found) {
    (void)version, (void)flags;
#define NAME(F) {#F, (void *)F}
    static const struct { const char *name; void *at; } known[] = {
        NAME(cuInit), NAME(cuDriverGetVersion), NAME(cuDeviceGetCount), NAME(cuDeviceGet), NAME(cuDeviceGetName),
        NAME(cuDeviceGetUuid), NAME(cuDeviceGetAttribute), NAME(cuDevicePrimaryCtxSetFlags), NAME(cuDevicePrimaryCtxGetState),
        NAME(cuDevicePrimaryCtxRetain), NAME(cuCtxSetCurrent), NAME(cuMemGetInfo), NAME(cuMemAlloc), NAME(cuMemHostAlloc),
        NAME(cuMemFree), NAME(cuMemFreeHost), NAME(cuMemsetD8Async), NAME(cuMemcpyHtoDAsync), NAME(cuMemcpyDtoHAsync),
        NAME(cuMemcpyDtoDAsync), NAME(cuStreamCreate), NAME(cuStreamSynchronize), NAME(cuStreamDestroy), NAME(cuStreamWaitEvent),
        NAME(cuEventCreate), NAME(cuEventRecord), NAME(cuEventSynchronize), NAME(cuEventElapsedTime), NAME(cuEventDestroy),
        NAME(cuStreamBeginCapture), NAME(cuStreamEndCapture), NAME(cuGraphInstantiate), NAME(cuGraphLaunch), NAME(cuGraphDestroy),
        NAME(cuGraphExecDestroy), NAME(cuModuleLoadData), NAME(cuModuleGetFunction), NAME(cuLaunchKernel),
        {"cuGraphInstantiateWithFlags", (void *)cuGraphInstantiate}, {"cuGetProcAddress", (void *)cuGetProcAddress_v2},
    };
    for (size_t index = 0; index < sizeof known / sizeof *known; index++)
        if (!strcmp(known[index].name, symbol)) {
            *function = known[index].at;
            if (found) *found = 0;
            return OK;
        }
    *function = NULL;
    if (found) *found = 1;
    return NOT_FOUND;
}
