#include "asyncopt/base/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

#include "asyncopt/base/wait.h"

namespace asyncopt {
namespace {

// Fields of /proc/PID/stat (proc_pid_stat(5)).
struct Stat {
  std::uint64_t start;   // field 22
  std::uint64_t memory;  // field 23, bytes mapped; 0 once the thread has released its memory
};

// None if there is no such process or thread; then errno is ENOENT or ESRCH.
std::optional<Stat> read_stat(const std::string& folder) {
  const int file = open((folder + "/stat").c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return std::nullopt;
  std::array<char, 1024> text;
  const ssize_t size = read(file, text.data(), text.size() - 1);
  const int error = size < 0 ? errno : EIO;
  close(file);
  errno = error;
  if (size <= 0) return std::nullopt;
  text[static_cast<std::size_t>(size)] = '\0';
  // Field 2 is the name in parentheses, which may itself contain spaces and parentheses.
  const char* at = std::strrchr(text.data(), ')');
  for (int field = 2; at != nullptr && field < 22; ++field) at = std::strchr(at + 1, ' ');
  if (at == nullptr) return std::nullopt;
  char* end = nullptr;
  Stat stat{};
  stat.start = std::strtoull(at + 1, &end, 10);
  stat.memory = std::strtoull(end, nullptr, 10);
  return stat;
}

bool is_absent(int error) { return error == ENOENT || error == ESRCH; }

// /proc may show an outer PID namespace (unshare --pid without --mount-proc), where ids differ.
bool proc_shows_our_namespace() {
  std::array<char, 32> target{};
  const ssize_t size = readlink("/proc/self", target.data(), target.size() - 1);
  return size > 0 && std::strtol(target.data(), nullptr, 10) == getpid();
}

bool no_thread_has_memory(const std::string& folder) {
  const std::string tasks = folder + "/task";
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(opendir(tasks.c_str()), &closedir);
  if (listing == nullptr) return is_absent(errno);
  while (const dirent* const entry = readdir(listing.get())) {
    if (entry->d_name[0] == '.') continue;
    const std::optional<Stat> stat = read_stat(tasks + '/' + entry->d_name);
    if (stat ? stat->memory != 0 : !is_absent(errno)) return false;
  }
  return true;
}

std::atomic<std::uint64_t> cached{0};

}  // namespace

ProcessId ProcessId::mine() {
  std::uint64_t bits = cached.load(std::memory_order_relaxed);
  if (bits == 0) {
    static const int registered =
        pthread_atfork(nullptr, nullptr, [] { cached.store(0, std::memory_order_relaxed); });
    (void)registered;
    const std::optional<Stat> stat = read_stat("/proc/self");
    if (!stat) throw std::system_error(errno, std::generic_category(), "reading /proc/self/stat");
    bits = ProcessId(static_cast<std::uint32_t>(getpid()), stat->start).bits();
    cached.store(bits, std::memory_order_relaxed);
  }
  return from_bits(bits);
}

bool is_gone(ProcessId process) {
  if (process == ProcessId::mine()) return false;
  const pid_t pid = static_cast<pid_t>(process.pid());
  if (kill(pid, 0) != 0 && errno == ESRCH) return true;
  static const bool readable = proc_shows_our_namespace();
  if (!readable) return false;
  const std::string folder = "/proc/" + std::to_string(pid);
  const std::optional<Stat> stat = read_stat(folder);
  if (!stat) return is_absent(errno);
  if (stat->start != process.start()) return true;  // the id was given to another process
  return stat->memory == 0 && no_thread_has_memory(folder);
}

bool wait_until_gone(ProcessId process, std::uint64_t timeout_ns) {
  constexpr timespec kPause{0, 50'000};  // ns; a killed process is gone after about 100 us
  const std::uint64_t end = now_ns() + timeout_ns;
  while (!is_gone(process)) {
    if (now_ns() >= end) return false;
    nanosleep(&kPause, nullptr);
  }
  return true;
}

std::uint32_t process_of_thread(std::uint32_t thread) {
  if (!proc_shows_our_namespace()) return 0;
  std::ifstream status("/proc/" + std::to_string(thread) + "/status");
  std::string name;
  std::uint32_t process = 0;
  while (status >> name && name != "Tgid:") status.ignore(1024, '\n');
  status >> process;
  return process;
}

std::uint64_t pid_namespace() {
  struct stat info{};
  if (stat("/proc/self/ns/pid", &info) != 0)
    throw std::system_error(errno, std::generic_category(), "telling PID namespaces apart");
  return info.st_ino;
}

}  // namespace asyncopt
