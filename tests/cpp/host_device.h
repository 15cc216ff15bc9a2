// A device in host memory: it runs the kernels thread by thread, so that a step on a device can be
// tested, except for the launches, on machines without one.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "asyncopt/device/backend.h"
#include "asyncopt/device/kernels.h"
#include "check.h"

namespace asyncopt::test {

class HostDevice final : public device::Backend {
 public:
  static constexpr unsigned kResident = 3;  // blocks at once: they take several chunks each

  // Counts of its calls.
  std::size_t launches[4] = {}, uploads = 0, uploaded_bytes = 0, events = 0;
  std::set<void*> memory;  // that is allocated
  // Launches are kept for replay() instead of being run.
  bool capturing = false;
  // The next call of this name fails.
  std::string failing;
  // While it is held, callers wait; a caller that times out continues and is counted.
  std::atomic<bool> held = false;
  std::atomic<std::size_t> waiting = 0, overdue = 0;

  void replay() {
    for (const auto& each : graph_) each();
  }

  const char* name() override { return "host:0"; }
  const char* explain(const device::Status&) override { return "hostErrorMadeUp, as told"; }

  device::Status allocate(std::size_t bytes, void** device, void** host) override {
    const std::lock_guard one_call(busy_);
    if (fails("allocate")) return {2, "allocate"};
    *device = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    *host = std::malloc(bytes);
    std::memset(*device, 0xA5, bytes);
    std::memset(*host, 0xA5, bytes);
    memory.insert({*device, *host});
    return {};
  }
  void release(void* device, void* host) override {
    wait_while_held();
    const std::lock_guard one_call(busy_);
    for (void* const each : {device, host}) {
      memory.erase(each);
      std::free(each);
    }
  }
  ~HostDevice() {
    for (void* const each : memory) std::free(each);
  }
  device::Status upload(void* device, const void* host, std::size_t bytes,
                        device::Stream) override {
    const std::lock_guard one_call(busy_);
    if (fails("upload")) return {1, "upload"};
    ++uploads;
    uploaded_bytes += bytes;
    std::memcpy(device, host, bytes);
    return {};
  }
  device::Status upload_now(void* device, const void* host, std::size_t bytes) override {
    return upload(device, host, bytes, nullptr);
  }
  device::Status download(void* host, const void* device, std::size_t bytes) override {
    wait_while_held();
    std::memcpy(host, device, bytes);
    return {};
  }
  device::Status is_capturing(device::Stream, bool* yes) override {
    *yes = capturing;
    return {};
  }
  device::Status mark(device::Stream, void** event) override {
    if (*event == nullptr) {
      *event = this;
      ++events;
    }
    return {};
  }
  device::Status wait(void*) override { return {}; }
  void release_event(void*) override { --events; }

  device::Status launch(device::Launch launch, std::size_t kernel, const void* args,
                        std::size_t items, device::Stream) override {
    wait_while_held();
    const std::lock_guard one_call(busy_);
    static constexpr const char* kCalls[] = {"check", "prepare", "hogwild", "atomic"};
    const char* const call = kCalls[static_cast<std::size_t>(launch)];
    if (fails(call) || items == 0) return {3, call};  // no GPU launches no blocks
    ++launches[static_cast<std::size_t>(launch)];
    check_alignment(*static_cast<const device::Part*>(args));  // which all arguments begin with
    const auto keep = [&]<class Args>(const Args* given) {
      run_or_capture(
          [this, launch, kernel, items, copy = *given] { run(launch, kernel, &copy, items); });
    };
    if (launch == device::Launch::check)
      keep(static_cast<const device::CheckArgs*>(args));
    else if (launch == device::Launch::prepare)
      keep(static_cast<const device::PrepareArgs*>(args));
    else
      keep(static_cast<const device::UpdateArgs*>(args));
    return {};
  }

 private:
  using Run = void (*)(const void* args, const device::Place& place);
  struct Kernels {
    Run of[4];  // as Launch counts
  };

  template <class Args, void (*kernel)(const Args&, const device::Place&)>
  static void run_as(const void* args, const device::Place& place) {
    kernel(*static_cast<const Args*>(args), place);
  }
  template <class Rule, class D>
  static Kernels kernels_of() {
    using T = typename D::param;
    using S = typename D::state;
    if constexpr (row_slots_of<Rule> > 0)
      return {};
    else
      return {{&run_as<device::CheckArgs, &device::check<T>>,
               &run_as<device::PrepareArgs, &device::prepare<Rule, arithmetic_t<T>>>,
               &run_as<device::UpdateArgs, &device::update<Rule, T, S, false>>,
               &run_as<device::UpdateArgs, &device::update<Rule, T, S, true>>}};
  }
  template <class... Rs, class... Ds>
  static std::vector<Kernels> every(List<Rs...>, List<Ds...>) {
    std::vector<Kernels> all;
    const auto row = [&all]<class R>(List<R>) { (all.push_back(kernels_of<R, Ds>()), ...); };
    (row(List<Rs>{}), ...);
    return all;
  }

  // A GPU would stop at a vector that begins between two.
  static void check_alignment(const device::Part& part) {
    for (std::size_t i = 0; i < part.tensor_count; ++i) {
      const device::Tensor& t = part.tensors[i];
      if (t.aligned == 0) continue;
      for (const void* const p : {t.param, t.grad, t.slots[0], t.slots[1], t.slots[2]})
        CHECK_EQ(reinterpret_cast<std::uintptr_t>(p) % device::kVector, 0u);
    }
  }
  void run_or_capture(std::function<void()> work) {
    if (capturing)
      graph_.push_back(std::move(work));
    else
      work();
  }
  static void run(device::Launch launch, std::size_t kernel, const void* args, std::size_t items) {
    static const std::vector<Kernels> all = every(Rules{}, Dtypes{});
    const bool is_prepare = launch == device::Launch::prepare;
    const unsigned threads = is_prepare ? device::kPrepareThreads : device::kThreads;
    const auto wanted = static_cast<unsigned>(is_prepare ? (items + threads - 1) / threads : items);
    const unsigned blocks = is_prepare || wanted < kResident ? wanted : kResident;
    for (unsigned block = 0; block < blocks; ++block)
      for (unsigned thread = 0; thread < threads; ++thread)
        all[kernel].of[static_cast<std::size_t>(launch)](args, {block, blocks, thread});
  }
  void wait_while_held() {
    using namespace std::chrono_literals;
    ++waiting;
    const auto deadline = std::chrono::steady_clock::now() + 5s;
    while (held && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(1ms);
    if (held) ++overdue;
    --waiting;
  }
  bool fails(const char* call) {
    if (failing != call) return false;
    failing.clear();
    return true;
  }

  std::mutex busy_;  // threads step side by side, as on a GPU
  std::vector<std::function<void()>> graph_;
};

}  // namespace asyncopt::test
