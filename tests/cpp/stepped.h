// Death at a chosen machine instruction.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include <sys/ptrace.h>

#include "support.h"

namespace asyncopt::test {

// A child that runs act() under ptrace, one machine instruction at a time.
class Stepped {
 public:
  template <class Prepare, class Act>
  Stepped(Prepare prepare, Act act)
      : child_(fork_child([&] {
          prepare();
          CHECK_EQ(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr), 0);
          raise(SIGSTOP);
          act();
        })) {
    CHECK_EQ(waitpid(child_, &status_, 0), child_);
  }
  ~Stepped() { end(); }
  Stepped(const Stepped&) = delete;
  Stepped& operator=(const Stepped&) = delete;

  // False: act has returned.
  bool step() {
    if (!WIFSTOPPED(status_)) return false;
    CHECK_EQ(ptrace(PTRACE_SINGLESTEP, child_, nullptr, nullptr), 0);
    CHECK_EQ(waitpid(child_, &status_, 0), child_);
    if (!WIFSTOPPED(status_)) CHECK_EQ(status_, 0);
    return WIFSTOPPED(status_);
  }
  void end() {
    if (!WIFSTOPPED(status_)) return;
    kill(child_, SIGKILL);
    CHECK_EQ(waitpid(child_, &status_, 0), child_);
    CHECK(WIFSIGNALED(status_));
  }

 private:
  pid_t child_;
  int status_ = 0;
};

// Calls look(steps) before the first instruction, and after each that changed the memory.
template <class Look>
void at_every_change(Stepped& child, const Mapping& memory, Look look) {
  const Mapping seen(memory.size());
  int steps = 0;
  do {
    if (steps == 0 || std::memcmp(seen.data(), memory.data(), memory.size()) != 0) {
      std::memcpy(seen.data(), memory.data(), memory.size());
      look(steps);
    }
    ++steps;
  } while (child.step());
}

// Calls look(died) with a child dead after each change that act() makes to the memory, and at last
// with one that came to its end. `set_up` puts the memory back each time, so that all children go
// the same way.
template <class SetUp, class Prepare, class Act, class Look>
void for_each_death(const Mapping& memory, SetUp set_up, Prepare prepare, Act act, Look look) {
  std::vector<int> deaths;
  set_up();
  {
    Stepped first(prepare, act);
    at_every_change(first, memory, [&deaths](int steps) { deaths.push_back(steps); });
  }
  CHECK_LE(5u, deaths.size());
  deaths.push_back(deaths.back() + 1'000'000);
  const std::string name = current_case;
  for (const int steps : deaths) {
    current_case = name + ", killed after " + std::to_string(steps);
    set_up();
    Stepped child(prepare, act);
    bool died = true;
    for (int i = 0; i < steps && died; ++i) died = child.step();
    child.end();
    look(died);
  }
  current_case = name;
}

}  // namespace asyncopt::test
