// Properties of each sync, so that the store and a push include no sync's header. sync/list.cc
// fills the list.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "asyncopt/base/counters.h"

namespace asyncopt {

class Segment;
struct Push;
struct PullBlock;

struct Contract {
  bool may_lose;   // an update can be overwritten by another worker's
  bool may_tear;   // a reader can see parts of different versions
  bool may_block;  // a worker can wait for another one
  bool replica;    // workers compute on private copies that they pull
  bool in_parts;   // a push may arrive tensor by tensor: no guarantee across tensors
};

// The store's version before and after a push.
struct Versions {
  std::uint64_t before, after;
};

struct SyncInfo {
  const char* name;
  const Contract* contract;
  bool striped;    // needs a lock per stripe
  bool publishes;  // the version is that of the copy that `latest` names
  std::size_t (*copies)(std::size_t workers);
  // Applies a push and counts it.
  Versions (*push)(const Segment&, std::size_t worker, const Push&, Tally&);
  // Copies parameters to a replica; returns their version.
  std::uint64_t (*pull)(const Segment&, std::size_t worker, std::span<const PullBlock>, Tally&);
};

std::size_t sync_count();
const SyncInfo& sync_info(std::size_t index);
// Throws SegmentError for an unknown name; the message lists the known ones.
std::size_t sync_index(std::string_view name);

}  // namespace asyncopt
