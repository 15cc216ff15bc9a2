// Exits with 0 where a mutex in shared memory outlives the process that died holding it.
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

int main() {
  void* shared = mmap(nullptr, sizeof(pthread_mutex_t), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 1;
  auto* mutex = static_cast<pthread_mutex_t*>(shared);
  pthread_mutexattr_t attributes;
  if (pthread_mutexattr_init(&attributes) != 0) return 2;
  if (pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) != 0) return 3;
  if (pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) != 0) return 4;
  if (pthread_mutex_init(mutex, &attributes) != 0) return 5;

  const pid_t child = fork();
  if (child < 0) return 6;
  if (child == 0) _exit(pthread_mutex_lock(mutex));
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 0) return 7;
  if (pthread_mutex_trylock(mutex) != EOWNERDEAD) return 8;
  if (pthread_mutex_consistent(mutex) != 0) return 9;
  return pthread_mutex_unlock(mutex);
}
