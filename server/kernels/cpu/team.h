// A small team of threads that runs one job at a time, with barriers inside the job.
//
// Each thread takes the chunks of its own share of a phase in order, so that it reads memory in order and
// knows what it reads next, and then what is left of the others' shares, so that a core that is busy with
// something else (an HTTP thread) delays nobody for long. Which thread computes a chunk never changes
// its result.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace glidecape {

// For a waiting loop: leaves the core to its other hardware thread for a moment.
inline void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Team {
 public:
  class Worker;
  using Job = std::function<void(Worker& worker)>;

  // Has fewer threads than asked for where the system grants no more.
  explicit Team(int size) {
    threads_.reserve(size);
    try {
      for (int i = 1; i < size; ++i) threads_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error&) {  // the first thread is the caller's: one is enough
    }
    size_ = static_cast<int>(threads_.size()) + 1;
  }

  ~Team() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  int size() const { return size_; }

  // Runs job(worker) at once in each thread; returns when all have.
  // num_phases: phase numbers that the job's calls of for_each and for_each_then use.
  void run(const Job& job, int num_phases) {
    // Each thread's counters begin at a cache line of their own.
    const int lines = (num_phases + kCountersOfLine - 1) / kCountersOfLine;
    if (lines > lines_each_) {
      counters_.reset(new Line[size_ * lines]);
      lines_each_ = lines;
    }
    for (int thread = 0; thread < size_; ++thread)
      for (int phase = 0; phase < num_phases; ++phase)
        taken(thread, phase).store(0, std::memory_order_relaxed);
    job_ = &job;
    running_.store(size_ - 1, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    run_job(0);
    wait_until([this] { return running_.load(std::memory_order_acquire) == 0; }, pause_core);
  }

 private:
  static constexpr int kFewRows = 4;
  static constexpr int kSpins = 5000;  // about 0.2 ms, longer than any phase of a small step

  static constexpr std::chrono::microseconds kAwake{1000};

  static constexpr int kCountersOfLine = 64 / sizeof(std::atomic<int>);

  struct alignas(64) Line {
    std::atomic<int> counters[kCountersOfLine];
  };

  // How many chunks of a thread's share of a phase are taken.
  std::atomic<int>& taken(int thread, int phase) {
    return counters_[thread * lines_each_ + phase / kCountersOfLine].counters[phase % kCountersOfLine];
  }

  // A barrier; the last thread to come runs last() before any goes on.
  template <class Last, class Idle>
  void meet(const Last& last, const Idle& idle) {
    const unsigned round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      last();
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    wait_until([this, round] { return round_.load(std::memory_order_acquire) != round; }, idle);
  }

  // idle(): what there is to do meanwhile, a little of it.
  template <class Done, class Idle>
  static void wait_until(const Done& done, const Idle& idle) {
    for (int i = 0; !done(); ++i) {
      if (i < kSpins) {
        idle();
      } else {
        sched_yield();  // somebody else needs this core
      }
    }
  }

  // Waits for a job without going to sleep, as long as a decoding loop may be between two of them:
  // waking up takes a tenth of a millisecond and more. Whoever else has work gets the core.
  void wait_a_while(unsigned seen) const {
    const auto is_idle = [&] { return generation_.load(std::memory_order_acquire) == seen; };
    for (int i = 0; i < kSpins && is_idle(); ++i) pause_core();
    const auto end = std::chrono::steady_clock::now() + kAwake;
    while (is_idle() && std::chrono::steady_clock::now() < end) sched_yield();
  }

  void run_job(int thread);

  void work(int thread) {
    unsigned seen = 0;
    while (true) {
      wait_a_while(seen);
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this, seen] { return generation_.load() != seen; });
        seen = generation_.load();
        if (stopping_) return;
      }
      run_job(thread);
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  int size_;
  std::vector<std::thread> threads_;
  std::unique_ptr<Line[]> counters_;  // [threads][lines_each_]
  int lines_each_ = 0;
  const Job* job_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::atomic<unsigned> generation_{0};
  alignas(64) std::atomic<int> running_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> round_{0};
};

// One thread of a team inside a job.
class Team::Worker {
 public:
  Worker(Team& team, int thread) : team_(team), thread_(thread) {}
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  int thread() const { return thread_; }
  int team_size() const { return team_.size_; }

  // All threads share out count chunks, then meet. phase: the same number in every thread, and never
  // used twice in a job.
  template <class Chunk>
  void for_each(int phase, int count, const Chunk& chunk) {
    share_out(phase, count, chunk);
    meet([] {});
  }

  // The same, and each_row(0 … rows - 1) when all chunks are done. Few rows are left to the thread that
  // comes last, since sharing them out would take one more meeting. Takes two phases.
  template <class Chunk, class Row>
  void for_each_then(int phase, int count, const Chunk& chunk, int rows, const Row& each_row) {
    share_out(phase, count, chunk);
    if (rows <= kFewRows) {
      meet([&] {
        for (int row = 0; row < rows; ++row) each_row(row);
      });
    } else {
      meet([] {});
      for_each(phase + 1, rows, each_row);
    }
  }

  // Memory that this thread reads in a later phase. It is fetched whenever the thread waits for the
  // others, since a small step is as fast as memory is, which would stand still.
  void fetch_while_waiting(const char* begin, int64_t size) { fetched_ = begin, fetched_end_ = begin + size; }

  // The first of a thread's share of count chunks; for one thread more than there are, count.
  int begin_of_share(int thread, int count) const {
    return static_cast<int>(static_cast<int64_t>(count) * thread / team_.size_);
  }

  // Whether a chunk, of count, is of this thread's share.
  bool owns(int chunk, int count) const {
    return begin_of_share(thread_, count) <= chunk && chunk < begin_of_share(thread_ + 1, count);
  }

 private:
  template <class Chunk>
  void share_out(int phase, int count, const Chunk& chunk) {
    for (int i = 0; i < team_.size_; ++i) {
      const int whose = (thread_ + i) % team_.size_;
      const int begin = begin_of_share(whose, count), size = begin_of_share(whose + 1, count) - begin;
      std::atomic<int>& taken = team_.taken(whose, phase);
      // A look before the next one is asked for: a share that is all taken stays in its thread's cache.
      while (taken.load(std::memory_order_relaxed) < size) {
        const int number = taken.fetch_add(1, std::memory_order_relaxed);
        if (number < size) chunk(begin + number);
      }
    }
  }

  template <class Last>
  void meet(const Last& last) {
    team_.meet(last, [this] {
      if (fetched_ == fetched_end_) return pause_core();
      __builtin_prefetch(fetched_, 0, 2);
      fetched_ += std::min<int64_t>(64, fetched_end_ - fetched_);
    });
  }

  Team& team_;
  const int thread_;
  const char *fetched_ = nullptr, *fetched_end_ = nullptr;  // begin and end of what is left
};

inline void Team::run_job(int thread) {
  Worker worker(*this, thread);
  (*job_)(worker);
}

// The process-wide team: one model's step runs at a time, and idle threads are not free.
class SharedTeam {
 public:
  // Calls use(team) while no other thread has it. threads: of the team; 0 for those that it has.
  template <class Use>
  static void with(int threads, const Use& use) {
    SharedTeam& self = instance();
    std::lock_guard<std::mutex> lock(self.mutex_);
    if (!self.team_ || (threads > 0 && self.asked_ != threads)) {
      delete self.team_;
      self.team_ = nullptr;
      self.team_ = new Team(std::max(1, threads));
      self.asked_ = threads;
    }
    use(*self.team_);
  }

 private:
  // Never destroyed: at exit a daemon thread may be inside a step.
  static SharedTeam& instance() {
    static SharedTeam* self = new SharedTeam;
    return *self;
  }

  // A forked child has a copy of the team but not its threads. It leaves that copy alone, because it
  // can be neither used nor joined, and makes its own.
  SharedTeam() {
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] {
                     instance().team_ = nullptr;
                     instance().mutex_.unlock();
                   });
  }

  std::mutex mutex_;
  Team* team_ = nullptr;
  int asked_ = 0;
};

}  // namespace glidecape
