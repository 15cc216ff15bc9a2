// Bindings of asyncopt._core.Board.
#include "asyncopt/board/board.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>
#include <tuple>

#include "plan.h"

namespace asyncopt::python {
namespace {

// Encoding of the states of a claim in positions.
constexpr std::array kStates = {std::pair{kRedo, "held"}, std::pair{kDone, "done"},
                                std::pair{kLeft, "left"}};

std::uint64_t nanoseconds(double seconds) {
  return static_cast<std::uint64_t>(std::clamp(seconds, 0.0, 1e9) * 1e9);
}

py::object index_or_end(std::optional<std::uint32_t> index) {
  return py::int_(index ? static_cast<std::int64_t>(*index) : -1);
}

// Lists, not tuples, so that the result equals its JSON round trip.
py::dict positions_of(const Board& board) {
  const Positions found = board.positions();
  py::list rounds, claims;
  for (const auto& r : found.rounds) {
    py::list round;
    round.append(r.round);
    round.append(r.next);
    rounds.append(round);
  }
  for (const auto& c : found.claims) {
    const auto* const state = std::find_if(kStates.begin(), kStates.end(),
                                           [&c](const auto& s) { return s.first == c.state; });
    py::list claim;
    claim.append(c.rank);
    claim.append(c.round);
    claim.append(state->second);
    claim.append(c.index);
    claims.append(claim);
  }
  py::dict out;
  out["workers"] = found.workers;
  out["turns"] = found.turns;
  out["rounds"] = rounds;
  out["claims"] = claims;
  return out;
}

Positions read_positions(const py::dict& given) try {
  Positions out;
  out.workers = given["workers"].cast<std::uint64_t>();
  out.turns = given["turns"].cast<std::uint64_t>();
  for (const py::handle each : given["rounds"]) {
    const auto [round, next] = each.cast<std::pair<std::uint64_t, std::uint64_t>>();
    out.rounds.push_back({round, next});
  }
  for (const py::handle each : given["claims"]) {
    const auto [rank, round, name, index] =
        each.cast<std::tuple<std::uint64_t, std::uint64_t, std::string, std::uint64_t>>();
    const auto* const state =
        std::find_if(kStates.begin(), kStates.end(),
                     [&spelled = name](const auto& s) { return s.second == spelled; });
    if (state == kStates.end()) throw py::value_error(name);
    out.claims.push_back({rank, round, index, state->first});
  }
  return out;
} catch (const std::exception& error) {
  throw std::invalid_argument(std::string("positions: expected what positions() returned, got "
                                          "something else (") +
                              error.what() + ")");
}

py::dict seat_of(const Board& board, std::size_t rank) {
  const Seat& s = board.seat(rank);
  py::dict out;
  out["pid"] = ProcessId::from_bits(s.process.load(std::memory_order_relaxed)).pid();
  out["incarnation"] = s.incarnation.load(std::memory_order_relaxed);
  out["progress"] = s.progress.load_relaxed();
  out["loss"] = s.loss.load(std::memory_order_relaxed);
  out["phase"] = kPhases[s.phase.load(std::memory_order_relaxed)];
  return out;
}

py::tuple events_of(const Board& board, std::size_t rank, std::uint64_t after) {
  const Events found = board.events(rank, after);
  py::list out;
  for (const Event& e : found.events)
    out.append(py::make_tuple(e.sequence, e.ns, kPhases[e.phase]));
  return py::make_tuple(out, found.lost);
}

void mark(const Board& board, std::size_t rank, std::uint32_t phase,
          std::optional<std::uint64_t> ns) {
  if (phase >= std::size(kPhases))
    throw std::invalid_argument("phase: expected an index of PHASES");
  board.mark(rank, phase, ns.value_or(now_ns()));
}

}  // namespace

void bind_board(py::module_& m) {
  py::tuple phases(std::size(kPhases));
  for (std::size_t i = 0; i < std::size(kPhases); ++i) phases[i] = py::str(kPhases[i]);
  m.attr("PHASES") = phases;
  const py::call_guard<py::gil_scoped_release> others_may_run;
  // `owner` holds the mapping; the board keeps a reference to it.
  py::class_<Board>(m, "Board")
      .def_static("bytes_needed", &Board::bytes_needed)
      .def_static(
          "create",
          [](std::uintptr_t at, std::uint64_t bytes, std::uint64_t workers, const py::object&) {
            return Board::create(reinterpret_cast<void*>(at), bytes, workers);
          },
          py::arg("address"), py::arg("nbytes"), py::arg("workers"), py::arg("owner").none(false),
          py::keep_alive<0, 4>())
      .def_static(
          "attach",
          [](std::uintptr_t at, std::uint64_t bytes, const py::object&) {
            return Board::attach(reinterpret_cast<void*>(at), bytes);
          },
          py::arg("address"), py::arg("nbytes"), py::arg("owner").none(false),
          py::keep_alive<0, 3>())
      .def_property_readonly("workers", &Board::workers)
      .def(
          "take",
          [](const Board& b, std::size_t rank, std::uint64_t round, std::uint64_t total,
             bool keep) { return index_or_end(b.take(rank, round, total, keep)); },
          py::arg("rank"), py::arg("round"), py::arg("total"), py::arg("keep") = false)
      .def(
          "take_static",
          [](const Board& b, std::size_t rank, std::uint64_t round, std::uint64_t total,
             std::uint64_t stride,
             bool keep) { return index_or_end(b.take_static(rank, round, total, stride, keep)); },
          py::arg("rank"), py::arg("round"), py::arg("total"), py::arg("stride"),
          py::arg("keep") = false)
      .def("finish", &Board::finish)
      .def("done", &Board::done)
      .def("agree", &Board::agree)
      .def("abandon", &Board::abandon)
      .def("positions", &positions_of)
      .def("restore",
           [](const Board& b, const py::dict& positions) { b.restore(read_positions(positions)); })
      .def(
          "begin",
          [](const Board& b, std::size_t rank, std::optional<std::uint64_t> max_staleness,
             double timeout) {
            return b.begin(rank, max_staleness.value_or(kUnbounded), nanoseconds(timeout));
          },
          others_may_run)
      .def(
          "admit",
          [](const Board& b, std::size_t rank, double timeout) {
            return b.admit(rank, nanoseconds(timeout));
          },
          others_may_run)
      .def("end", &Board::end)
      .def("leave", &Board::leave)
      .def_property_readonly("turns", &Board::turns)
      .def_property_readonly("in_turn", &Board::in_turn)
      .def("pause", &Board::pause)
      .def("resume", &Board::resume)
      .def_property_readonly("paused", &Board::paused)
      .def(
          "park",
          [](const Board& b, std::size_t rank, double timeout) {
            return b.park(rank, nanoseconds(timeout));
          },
          others_may_run)
      .def_property_readonly("parked", &Board::parked)
      .def("beat", &Board::beat)
      .def("log", &Board::log)
      .def("mark", &mark, py::arg("rank"), py::arg("phase"), py::arg("ns") = py::none())
      .def("seat", &seat_of)
      .def("events", &events_of);
}

}  // namespace asyncopt::python
