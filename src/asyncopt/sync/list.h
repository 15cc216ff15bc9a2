// The list of syncs, and what the rest of the engine asks of them.
#pragma once

#include <cstdint>
#include <string_view>

namespace asyncopt {

struct Contract;

struct SyncInfo {
  const char* name;
  const Contract* contract;
  bool striped;
  bool publishes;
  std::size_t (*copies)(std::size_t workers);
};

std::size_t sync_count();
const SyncInfo& sync_info(std::size_t index);
// Throws SegmentError for an unknown name; the message lists the known ones.
std::size_t sync_index(std::string_view name);

}  // namespace asyncopt
