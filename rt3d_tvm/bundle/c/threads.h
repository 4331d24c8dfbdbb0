// The threads of one model, and the parallel-for that its kernels ask for. Part of runtime.c.
//
// A job is one parallel loop of a kernel. The thread that runs the model takes part in it; the
// others wait for the next one, at first looking for it again and again, then asleep. Nothing is
// allocated between pool_start and pool_stop.
#pragma once

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

// APART: bytes between what different threads write, so that none waits for another's cache line.
enum { ALIGNMENT = 64, APART = 128, MOST_THREADS = 256, MOST_CORES = 1024 };
// How long a thread looks for the next job, or for the end of one, before it sleeps; and after how
// long of it others may have the core.
static const int64_t kSpinNs = 300000, kGreedyNs = 30000;

// TVM's, of tvm/runtime/c_backend_api.h: a loop's environment and one of its tasks.
typedef struct {
  void *sync_handle;
  int32_t num_task;
} ParallelEnv;
typedef int (*Lambda)(int task, ParallelEnv *environment, void *data);

// Memory that a kernel needs while it runs, as a stack: what is freed is what was taken last.
typedef struct {
  char *memory;
  size_t size, used;
} Scratch;

typedef struct Pool Pool;
typedef struct {
  Pool *pool;
  pthread_t thread;
  int index;
  Scratch scratch;
  atomic_int core;  // that it ran on when it last looked
  char apart[APART];
} Worker;

struct Pool {
  int threads;
  // The cores that threads are bound to, thread i to cores[i % core_count]; none: to no core.
  int core_count;
  int cores[MOST_CORES];
  Worker *workers;
  char *scratch;
  size_t scratch_size;
  pthread_mutex_t mutex;
  pthread_cond_t job_is_there, job_is_done;
  // Counts jobs. A thread that sleeps says so first and looks at the count again, so that none
  // misses a job: all of these are sequentially consistent.
  atomic_uint jobs;
  atomic_int asleep, failed;
  atomic_bool caller_sleeps;
  bool stopping;
  Lambda lambda;
  void *data;
  int tasks;
  char apart[APART];
  atomic_int at_work;
  char apart_too[APART];
};

// The part of a pool that this thread is, while it runs a kernel.
static _Thread_local Worker *current_worker;

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void pause_a_little(void) {
  for (int i = 0; i < 8; ++i) {
#if defined(__aarch64__)
    __asm__ volatile("isb");
#elif defined(__x86_64__)
    __asm__ volatile("pause");
#endif
  }
}

// Whether it is still worth looking: false when the thread had better sleep.
static bool keep_looking(int64_t since) {
  pause_a_little();
  int64_t waited = nanoseconds() - since;
  if (waited > kGreedyNs) sched_yield();
  return waited < kSpinNs;
}

static void bind_to(const Pool *pool, int index) {
#ifdef __linux__
  if (pool->core_count == 0) return;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(pool->cores[index % pool->core_count], &cores);
  // A core may have gone offline since: the thread then runs where it may.
  (void)sched_setaffinity(0, sizeof cores, &cores);
#else
  (void)pool, (void)index;
#endif
}

static void say_core(Worker *worker) {
#ifdef __linux__
  atomic_store(&worker->core, sched_getcpu());
#else
  (void)worker;
#endif
}

// Leaves a core that the caller or an earlier worker runs on. The system may wake a thread there
// while other cores are idle, and moves it milliseconds later: until then the two take turns at
// every job. Where it may run afterwards is as before.
static void leave_shared_core(Worker *worker) {
#ifdef __linux__
  const Worker *workers = worker->pool->workers;
  int here = sched_getcpu();
  bool shared = false;
  for (int i = 0; i < worker->index; ++i) shared |= atomic_load(&workers[i].core) == here;
  cpu_set_t before;
  if (shared && sched_getaffinity(0, sizeof before, &before) == 0) {
    cpu_set_t free = before;
    for (int i = 0; i < worker->pool->threads; ++i) {
      int core = atomic_load(&workers[i].core);
      if (core >= 0 && core < CPU_SETSIZE) CPU_CLR(core, &free);
    }
    // With none free, more threads run than there are cores.
    if (CPU_COUNT(&free) > 0 && sched_setaffinity(0, sizeof free, &free) == 0) {
      (void)sched_setaffinity(0, sizeof before, &before);
    }
  }
#endif
  say_core(worker);
}

static void do_tasks(Worker *worker) {
  Pool *pool = worker->pool;
  ParallelEnv environment = {NULL, pool->tasks};
  for (int task = worker->index; task < pool->tasks; task += pool->threads) {
    if (pool->lambda(task, &environment, pool->data) != 0) atomic_store(&pool->failed, 1);
  }
}

static void *work(void *argument) {
  Worker *worker = argument;
  Pool *pool = worker->pool;
  current_worker = worker;
  bind_to(pool, worker->index);
  unsigned seen = 0;
  for (;;) {
    int64_t since = nanoseconds();
    while (atomic_load(&pool->jobs) == seen && keep_looking(since)) {
    }
    if (atomic_load(&pool->jobs) == seen) {
      pthread_mutex_lock(&pool->mutex);
      atomic_fetch_add(&pool->asleep, 1);
      while (atomic_load(&pool->jobs) == seen) pthread_cond_wait(&pool->job_is_there, &pool->mutex);
      atomic_fetch_sub(&pool->asleep, 1);
      pthread_mutex_unlock(&pool->mutex);
    }
    ++seen;
    if (pool->stopping) return NULL;
    if (nanoseconds() - since > kGreedyNs) leave_shared_core(worker);
    do_tasks(worker);
    if (atomic_fetch_sub(&pool->at_work, 1) == 1 && atomic_load(&pool->caller_sleeps)) {
      pthread_mutex_lock(&pool->mutex);
      pthread_cond_signal(&pool->job_is_done);
      pthread_mutex_unlock(&pool->mutex);
    }
  }
}

// Gives all threads but the caller's a job.
static void announce(Pool *pool) {
  atomic_store(&pool->at_work, pool->threads - 1);
  atomic_fetch_add(&pool->jobs, 1);
  if (atomic_load(&pool->asleep) > 0) {
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->job_is_there);
    pthread_mutex_unlock(&pool->mutex);
  }
}

static void await_others(Pool *pool) {
  int64_t since = nanoseconds();
  while (atomic_load(&pool->at_work) > 0 && keep_looking(since)) {
  }
  if (atomic_load(&pool->at_work) == 0) return;
  pthread_mutex_lock(&pool->mutex);
  atomic_store(&pool->caller_sleeps, true);
  while (atomic_load(&pool->at_work) > 0) pthread_cond_wait(&pool->job_is_done, &pool->mutex);
  atomic_store(&pool->caller_sleeps, false);
  pthread_mutex_unlock(&pool->mutex);
}

// All tasks of a loop, over the threads; 0, or -1 where one of them fails.
static int pool_run(Pool *pool, Lambda lambda, void *data, int tasks) {
  pool->lambda = lambda, pool->data = data;
  pool->tasks = tasks > 0 ? tasks : pool->threads;
  atomic_store(&pool->failed, 0);
  bool alone = pool->threads == 1 || pool->tasks == 1;
  if (alone) {
    ParallelEnv environment = {NULL, pool->tasks};
    for (int task = 0; task < pool->tasks; ++task) {
      if (lambda(task, &environment, data) != 0) return -1;
    }
    return 0;
  }
  announce(pool);
  do_tasks(&pool->workers[0]);
  await_others(pool);
  return atomic_load(&pool->failed) ? -1 : 0;
}

static void pool_stop(Pool *pool, bool forked) {
  if (!forked && pool->workers) {  // a fork has the memory of its parent's threads and not them
    pool->stopping = true;
    announce(pool);
    for (int i = 1; i < pool->threads; ++i) pthread_join(pool->workers[i].thread, NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->job_is_there);
    pthread_cond_destroy(&pool->job_is_done);
  }
  if (pool->scratch) munmap(pool->scratch, pool->scratch_size);
  free(pool->workers);
  pool->workers = NULL, pool->scratch = NULL;
}

static size_t whole_pages(size_t size) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return (size + page - 1) / page * page;
}

static void *new_pages(size_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

// Starts the threads of a pool whose cores are set, each with so much scratch memory: pages that
// are the process's only once a kernel has used them. 0, or an errno.
static int pool_start(Pool *pool, int threads, size_t scratch) {
  pool->workers = NULL, pool->scratch = NULL, pool->stopping = false;
  pool->threads = 1;
  atomic_store(&pool->jobs, 0), atomic_store(&pool->asleep, 0), atomic_store(&pool->at_work, 0);
  atomic_store(&pool->caller_sleeps, false);
  size_t each = scratch ? whole_pages(scratch) : 0;
  if (each) {
    pool->scratch_size = each * (size_t)threads;
    if (!(pool->scratch = new_pages(pool->scratch_size))) return ENOMEM;
  }
  Worker *workers = calloc((size_t)threads, sizeof *workers);
  if (!workers) {
    pool_stop(pool, true);
    return ENOMEM;
  }
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->job_is_there, NULL);
  pthread_cond_init(&pool->job_is_done, NULL);
  pool->workers = workers;
  for (int i = 0; i < threads; ++i) {
    workers[i].pool = pool, workers[i].index = i;
    workers[i].scratch =
        (Scratch){each ? pool->scratch + each * (size_t)i : NULL, each, 0};
    atomic_store(&workers[i].core, -1);
  }
  // Signals are for the threads of who uses this.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = 0;
  for (int i = 1; i < threads && !failed; ++i) {
    failed = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    if (!failed) ++pool->threads;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (failed) pool_stop(pool, false);
  return failed;
}

static void *scratch_take(Scratch *scratch, size_t size) {
  size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (!scratch->memory || size + ALIGNMENT > scratch->size - scratch->used) return NULL;
  char *header = scratch->memory + scratch->used;
  memcpy(header, &scratch->used, sizeof scratch->used);
  scratch->used += size + ALIGNMENT;
  return header + ALIGNMENT;
}

static int scratch_free(Scratch *scratch, void *memory) {
  size_t before;
  char *header = (char *)memory - ALIGNMENT;
  memcpy(&before, header, sizeof before);
  if (header != scratch->memory + before || before >= scratch->used) return -1;
  scratch->used = before;
  return 0;
}
