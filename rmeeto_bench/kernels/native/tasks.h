// Independent tasks on the threads that torch already has. Torch's OpenMP runtime is asked by its address for a team, so
// that the process has one pool of threads however many libraries there are. Where it has none, and in a forked child,
// whose pool did not survive the fork, the team is made of threads of the moment.
#pragma once
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

typedef void (*Team)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel's type

extern Team openmp_team;  // null: none
extern pid_t loaded_in;

template <class Body>
void each_task(long tasks, int threads, const Body& body) {
  struct Work {
    std::atomic<long> next;
    long tasks;
    const Body* body;
    static void take(void* given) {
      Work& work = *static_cast<Work*>(given);
      for (long task; (task = work.next.fetch_add(1, std::memory_order_relaxed)) < work.tasks;) (*work.body)(task);
    }
  } work = {{0}, tasks, &body};
  if (threads <= 1 || tasks <= 1) {
    Work::take(&work);
  } else if (openmp_team && getpid() == loaded_in) {
    openmp_team(Work::take, &work, threads, 0);
  } else {
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads && i < tasks; ++i) helpers.emplace_back(Work::take, &work);
    Work::take(&work);
    for (std::thread& helper : helpers) helper.join();
  }
}
