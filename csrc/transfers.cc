// Transfers of a plan's tensors: pulls from the store, and pushes of given gradients and writes.
#include <stdexcept>
#include <string>

#include "plan.h"

namespace asyncopt::python {

int Plan::push(const How& how, const py::list& grads, Part part, const Writes& writes) {
  if (target_ == nullptr) throw std::logic_error("push: expected a plan over a store");
  const auto lock = one_caller();
  if (!current(how)) return kStale;
  if (!read_gradients(grads)) return kOddGradient;
  read_hyper(how);
  const int updated = updated_;
  Push push = request(how);
  push.part = part;
  const std::vector<ReplicaWrite> written = located(writes);
  push.writes = written;
  const bool applied = run(push, /*refresh=*/false);
  held_.clear();
  return applied ? updated : kSkipped;
}

bool Plan::publish(const Writes& writes) {
  if (target_ == nullptr) throw std::logic_error("publish: expected a plan over a store");
  const auto lock = one_caller();
  std::vector<ReplicaWrite> written = located(writes);
  Push push;
  push.writes_only = true;
  push.writes = written;
  if (replica_) {
    locate_all();
    replica_->look(pulls_);
    push.writes = replica_->writes(blocks_);
  }
  if (push.writes.empty()) return false;
  run_shared(push, /*refresh=*/false);
  return true;
}

std::vector<ReplicaWrite> Plan::located(const Writes& writes) const {
  std::vector<ReplicaWrite> found;
  for (const auto& [index, written, pulled] : writes)
    found.push_back({&blocks_.at(index), reinterpret_cast<const std::byte*>(written),
                     reinterpret_cast<const std::byte*>(pulled)});
  return found;
}

void Plan::follow_memory() {
  if (!replica_) return;
  const auto lock = one_caller();
  locate_all();
  replica_->follow(pulls_);
}

void Plan::continue_from(const Plan& before) {
  if (replica_ && before.replica_) replica_->continue_from(*before.replica_);
}

std::uint64_t Plan::pull() {
  if (target_ == nullptr) throw std::logic_error("pull: expected a plan over a store");
  target_->segment.check_worker(target_->worker);
  const auto lock = one_caller();
  locate_all();
  std::uint64_t version = 0;
  if (replica_) replica_->look(pulls_);
  {
    const py::gil_scoped_release others_may_run;
    version = pull_replica(state_pulls_);
  }
  if (replica_) replica_->note();
  owes_refresh_ = false;
  return version;
}

std::uint64_t Plan::pull_to(const std::vector<std::size_t>& indices,
                            const std::vector<std::uintptr_t>& addresses) {
  if (target_ == nullptr) throw std::logic_error("pull_to: expected a plan over a store");
  if (indices.size() != addresses.size())
    throw std::invalid_argument("addresses: expected one for each index");
  target_->segment.check_worker(target_->worker);
  std::vector<PullBlock> some;
  for (std::size_t i = 0; i < indices.size(); ++i) {
    some.push_back(pulls_.at(indices[i]));
    some.back().replica = reinterpret_cast<void*>(addresses[i]);
  }
  const auto lock = one_caller();
  const py::gil_scoped_release others_may_run;
  return asyncopt::pull(target_->segment, target_->worker, some);
}

}  // namespace asyncopt::python
