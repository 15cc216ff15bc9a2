// The list of syncs: a new one is a header here and an entry of `Syncs`.
#include <array>
#include <string>

#include "asyncopt/base/list.h"
#include "asyncopt/sync/atomic.h"
#include "asyncopt/sync/hogwild.h"
#include "asyncopt/sync/leashed.h"
#include "asyncopt/sync/mutex.h"
#include "asyncopt/sync/seqlock.h"
#include "asyncopt/sync/striped.h"

namespace asyncopt {

using Syncs = List<Hogwild, Atomic, Striped, Mutex, Seqlock, Leashed>;

namespace {

template <class... Ss>
constexpr std::array<SyncInfo, sizeof...(Ss)> entries(List<Ss...>) {
  return {SyncInfo{Ss::name, &Ss::contract, Ss::striped, Ss::publishes, &Ss::copies, &Ss::push,
                   &Ss::pull}...};
}
constexpr auto kSyncs = entries(Syncs{});

}  // namespace

std::size_t sync_count() { return kSyncs.size(); }
const SyncInfo& sync_info(std::size_t index) { return kSyncs.at(index); }

std::size_t sync_index(std::string_view name) {
  std::string known;
  for (std::size_t i = 0; i < kSyncs.size(); ++i) {
    if (name == kSyncs[i].name) return i;
    known += (i == 0 ? "" : ", ") + std::string(kSyncs[i].name);
  }
  throw SegmentError("sync: expected one of " + known + "; got '" + std::string(name) + "'");
}

}  // namespace asyncopt
