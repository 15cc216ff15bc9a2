// Module asyncopt._core: bindings of the lists, the segment and the plan.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sys/mman.h>
#include <unistd.h>

#include "asyncopt/base/isa.h"
#include "asyncopt/base/parallel.h"
#include "asyncopt/base/process.h"
#include "asyncopt/push/journal.h"
#include "asyncopt/store/segment.h"
#include "asyncopt/store/sync_info.h"
#include "asyncopt/sync/sync.h"
#include "plan.h"

namespace asyncopt::python {
namespace {

py::tuple names(std::span<const char* const> strings) {
  py::tuple out(strings.size());
  for (std::size_t i = 0; i < strings.size(); ++i) out[i] = py::str(strings[i]);
  return out;
}

py::list kernel_list() {
  py::list out;
  for (const Kernel& k : kernels()) {
    py::dict d;
    d["rule"] = k.rule;
    d["param_dtype"] = k.param_dtype;
    d["state_dtype"] = k.state_dtype;
    d["hyper"] = names(k.hyper);
    d["slots"] = names(k.slots);
    d["row_slots"] = k.row_slots;
    d["scalars"] = names(k.scalars);
    out.append(d);
  }
  return out;
}

py::list sync_list() {
  py::list out;
  for (std::size_t i = 0; i < sync_count(); ++i) {
    const SyncInfo& s = sync_info(i);
    py::dict d;
    d["name"] = s.name;
    d["may_lose"] = s.contract->may_lose;
    d["may_tear"] = s.contract->may_tear;
    d["may_block"] = s.contract->may_block;
    d["replica"] = s.contract->replica;
    d["in_parts"] = s.contract->in_parts;
    out.append(d);
  }
  return out;
}

// The worker slots that a running process holds.
std::vector<std::size_t> owned_slots(const Segment& segment) {
  std::vector<std::size_t> slots;
  for (std::size_t i = 0; i < segment.header().workers; ++i) {
    const auto owner =
        ProcessId::from_bits(segment.worker(i).owner.load(std::memory_order_relaxed));
    if (owner != ProcessId{} && !is_gone(owner)) slots.push_back(i);
  }
  return slots;
}

py::list ledger(const Segment& segment) {
  py::list out;
  for (std::size_t i = 0; i < segment.header().workers; ++i) {
    const WorkerSlot& w = segment.worker(i);
    std::vector<std::uint64_t> staleness(kStalenessBuckets);
    for (std::size_t b = 0; b < kStalenessBuckets; ++b)
      staleness[b] = w.staleness[b].load_relaxed();
    py::dict d;
    d["slot"] = i;
    d["process"] = ProcessId::from_bits(w.owner.load(std::memory_order_relaxed)).pid();
    d["pushes"] = w.pushes.load_relaxed();
    d["retries"] = w.retries.load_relaxed();
    d["lock_waits"] = w.lock_waits.load_relaxed();
    d["lock_wait_ns"] = w.lock_wait_ns.load_relaxed();
    d["lost_updates"] = w.lost_updates.load_relaxed();
    d["lost_state_updates"] = w.lost_state_updates.load_relaxed();
    d["skipped_nonfinite"] = w.skipped_nonfinite.load_relaxed();
    d["repairs"] = w.repairs.load_relaxed();
    d["unfinished"] = w.unfinished.load_relaxed();
    d["staleness_sum"] = w.staleness_sum.load_relaxed();
    d["staleness"] = staleness;
    out.append(d);
  }
  return out;
}

std::vector<std::uint64_t> staleness_floors() {
  std::vector<std::uint64_t> floors(kStalenessBuckets);
  for (std::size_t b = 0; b < kStalenessBuckets; ++b) floors[b] = staleness_bucket_floor(b);
  return floors;
}

SegmentConfig config(std::string sync, std::uint64_t workers, std::uint64_t data_bytes,
                     std::uint64_t param_bytes, double lock_timeout, std::uint64_t layout_hash) {
  return {std::move(sync),
          workers,
          data_bytes,
          param_bytes,
          static_cast<std::uint64_t>(lock_timeout * 1e9),
          layout_hash};
}

void* pointer(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

void prefer_huge_pages(std::uintptr_t at, std::size_t bytes) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = (at + page - 1) / page * page, end = (at + bytes) / page * page;
  if (begin < end) madvise(pointer(begin), end - begin, MADV_HUGEPAGE);  // best effort
}

}  // namespace

void bind_segment(py::module_& m) {
  py::class_<SegmentConfig>(m, "SegmentConfig")
      .def(py::init(&config), py::kw_only(), py::arg("sync"), py::arg("workers"),
           py::arg("data_bytes"), py::arg("param_bytes"), py::arg("lock_timeout"),
           py::arg("layout_hash"))
      .def_property_readonly("bytes_needed", &Segment::bytes_needed);
  // `owner` holds the mapping; the segment, and plans over it, keep a reference to it.
  py::class_<Segment>(m, "Segment")
      .def_static(
          "create",
          [](std::uintptr_t at, std::uint64_t bytes, const SegmentConfig& c, const py::object&) {
            return Segment::create(pointer(at), bytes, c);
          },
          py::arg("address"), py::arg("nbytes"), py::arg("config"), py::arg("owner").none(false),
          py::keep_alive<0, 4>())
      .def_static(
          "attach",
          [](std::uintptr_t at, std::uint64_t bytes, const py::object&) {
            return Segment::attach(pointer(at), bytes);
          },
          py::arg("address"), py::arg("nbytes"), py::arg("owner").none(false),
          py::keep_alive<0, 3>())
      .def("claim_worker", &Segment::claim_worker)
      .def("release_worker", &Segment::release_worker)
      .def(
          "pull_mark",
          [](const Segment& s, std::size_t worker, std::optional<std::uint64_t> version) {
            s.pull_mark(worker, version.value_or(s.version()));
          },
          py::arg("worker"), py::arg("version") = py::none())
      .def("restore_version", &Segment::restore_version)
      .def("ledger", &ledger)
      .def("owned_slots", &owned_slots)
      .def_property_readonly("data_offset", &Segment::data_offset)
      .def_property_readonly("version", &Segment::version)
      .def_property_readonly("workers", [](const Segment& s) { return s.header().workers; })
      .def_property_readonly("sync",
                             [](const Segment& s) { return std::string(s.header().sync_name); })
      .def_property_readonly(
          "lock_timeout",
          [](const Segment& s) { return static_cast<double>(s.header().lock_timeout_ns) * 1e-9; })
      .def("pulled",
           [](const Segment& s, std::size_t worker) {
             return s.worker(worker).pulled.load(std::memory_order_relaxed);
           })
      .def_property_readonly("layout_hash",
                             [](const Segment& s) { return s.header().layout_hash; });
}

}  // namespace asyncopt::python

PYBIND11_MODULE(_core, m) {
  namespace py = pybind11;
  using namespace asyncopt;
  using namespace asyncopt::python;
  m.doc() = "The compiled engine of asyncopt.";
  const py::module_ errors = py::module_::import("asyncopt.errors");
  py::register_local_exception_translator([](std::exception_ptr p) {
    const auto raise = [](const char* type, const std::exception& e) {
      py::set_error(py::module_::import("asyncopt.errors").attr(type), e.what());
    };
    try {
      if (p) std::rethrow_exception(p);
    } catch (const LockTimeout& e) {
      raise("LockTimeout", e);
    } catch (const SegmentError& e) {
      raise("SegmentError", e);
    } catch (const device::DeviceError& e) {
      raise("DeviceError", e);
    }
  });
  m.def("kernels", &kernel_list,
        "Every kernel: a rule on a dtype, with the names of its numbers and state.");
  m.def("syncs", &sync_list, "Every sync with its contract.");
  m.def(
      "isas", [] { return names(available_isas()); },
      "Instruction sets of this build and processor, slowest first.");
  m.def("isa", &picked_isa, "The instruction set in use.");
  m.attr("PARALLEL_FROM") = kParallel;
  m.attr("MAX_WORKERS") = kMaxWorkers;
  m.attr("MAX_STRIPES") = kMaxStripes;
  m.attr("CACHE_LINE") = kCacheLine;
  m.attr("DEVICE_LAYOUT") = device::kLayout;
  m.def("staleness_floors", &staleness_floors, "The smallest staleness of each histogram bucket.");
  m.def(
      "journal_bytes",
      [](std::size_t kernel, std::size_t rows) {
        return Journal::bytes(rows, kernels()[kernel].coef_bytes);
      },
      py::arg("kernel"), py::arg("rows"), "Bytes of the journal of a table of so many rows.");
  m.def(
      "open_journal",
      [](std::uintptr_t at, std::size_t bytes, bool at_rest) {
        Journal::open(reinterpret_cast<std::byte*>(at), bytes, at_rest);
      },
      py::arg("at"), py::arg("bytes"), py::arg("at_rest"),
      "Make memory a new journal: no row has missed a push. At rest: all state is what it starts "
      "as.");
  m.def("expect_forks", &expect_forks,
        "Say that this process computes nothing, so that its forks can use threads.");
  m.def("prefer_huge_pages", &prefer_huge_pages, py::arg("at"), py::arg("bytes"),
        "Ask for large pages under memory that has not been touched yet.");
  bind_segment(m);
  bind_plan(m);
  bind_versions(m);
  bind_board(m);
  bind_linear(m);
  bind_factors(m);
  bind_cuts(m);
  bind_svmlight(m);
  bind_probe(m);
}
