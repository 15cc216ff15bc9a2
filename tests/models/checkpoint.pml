// Checkpoints: asyncopt/run/checkpoint/directory.py, Directory.write, _remove and _clear_away, with
// write_file of asyncopt/run/checkpoint/files.py and load of asyncopt/run/checkpoint/checkpoint.py;
// of two files each, with keep=1. The process is killed at any step, or the power fails: then each
// change that was not synced is on the disk or it is not, in any combination. A process that starts
// again clears away what its predecessor left. Another one loads meanwhile: it lists the names,
// opens the newest directory and reads its files.
//
// Properties
//   whole            a checkpoint that can be seen under its name has all its files, whole
//   never neither    the newest is the last one that was written to its end, or one after it; and
//                    whoever loads while it is replaced gets the one or the other
//
// Switches
//   WITHOUT_RENAME         a checkpoint is written under its own name
//   WITHOUT_FILE_SYNC      its files are not synced
//   WITHOUT_DIRECTORY_SYNC the directory that holds them is not synced
//   WITHOUT_PARENT_SYNC    the rename is not synced
//   WITHOUT_ORDER          older ones are removed before the new one is there
//   WITHOUT_REMOVE_RENAME  older ones are removed file by file under their own names
//   WITHOUT_REMOVE_SYNC    ... or their renames are not synced before that
//   WITHOUT_CLEAR_SYNC     ... or not by the process that goes on with the removal
//   WITHOUT_LIST_AGAIN     who loads, and finds what it has listed removed, does not list again
//
// Instances: ""

#define WORKERS 1
#define KILLS 2
#define SAVES 3
#include "kill.h"

// Of a checkpoint, by number: what programs see, and which of it may be otherwise on the disk.
typedef Checkpoint {
  bool name, name_unsynced;
  bool entry[2], entries_unsynced;
  bool data[2], data_unsynced[2]
}
Checkpoint saved[SAVES + 1];
byte committed;  // the last one that was written to its end
bool power_failed;

inline rename(n, to) {
  atomic { saved[n].name = to; saved[n].name_unsynced = true }
}

inline sync_parent() {
  d_step {
    saved[1].name_unsynced = false;
    saved[2].name_unsynced = false;
    saved[3].name_unsynced = false
  }
}

inline unlink(n, file) {
  atomic {
    if
    :: saved[n].entry[file] -> saved[n].entry[file] = false; saved[n].entries_unsynced = true
    :: else
    fi
  }
}

inline write_file(n, file) {
  atomic { saved[n].entry[file] = true; saved[n].entries_unsynced = true }
  atomic { saved[n].data[file] = true; saved[n].data_unsynced[file] = true }
#ifndef WITHOUT_FILE_SYNC
  saved[n].data_unsynced[file] = false
#endif
}

#define FILE_IS_WHOLE(n, file) (saved[n].entry[file] && saved[n].data[file])

// What load may meet now: the newest is the last whose name is seen.
inline check() {
  d_step {
    newest = 0;
    i = 1;
    do
    :: i <= SAVES && saved[i].name ->
       assert(FILE_IS_WHOLE(i, 0) && FILE_IS_WHOLE(i, 1));
       newest = i;
       i++
    :: i <= SAVES && !saved[i].name -> i++
    :: else -> break
    od;
    assert(newest >= committed);
    i = 0
  }
}

inline lose(now, unsynced) {
  if
  :: unsynced -> now = true; unsynced = false
  :: unsynced -> now = false; unsynced = false
  :: else
  fi
}

inline lose_unsynced(n) {
  lose(saved[n].name, saved[n].name_unsynced);
  lose(saved[n].data[0], saved[n].data_unsynced[0]);
  lose(saved[n].data[1], saved[n].data_unsynced[1]);
  if
  :: saved[n].entries_unsynced ->
     if
     :: saved[n].entry[0] = false
     :: saved[n].entry[0] = true
     fi;
     if
     :: saved[n].entry[1] = false
     :: saved[n].entry[1] = true
     fi;
     saved[n].entries_unsynced = false
  :: else
  fi
}

// A directory that has not been there before.
inline make_directory(n) {
  d_step {
    saved[n].entry[0] = false;
    saved[n].entry[1] = false;
    saved[n].entries_unsynced = false;
    saved[n].data[0] = false;
    saved[n].data[1] = false;
    saved[n].data_unsynced[0] = false;
    saved[n].data_unsynced[1] = false
  }
}

inline remove_older() {
#ifdef WITHOUT_REMOVE_RENAME
  old = 1;
  do
  :: old < number -> unlink(old, 0); unlink(old, 1); rename(old, false); old++
  :: else -> old = 0; break
  od
#else
  old = 1;
  do
  :: old < number && saved[old].name -> rename(old, false); old++
  :: old < number && !saved[old].name -> old++
  :: else -> break
  od;
#ifndef WITHOUT_REMOVE_SYNC
  sync_parent();
#endif
  old = 1;
  do
  :: old < number -> unlink(old, 0); unlink(old, 1); old++
  :: else -> old = 0; break
  od
#endif
}

inline write() {
  make_directory(number);
#ifdef WITHOUT_ORDER
  remove_older();
#endif
#ifdef WITHOUT_RENAME
  rename(number, true);
#endif
  write_file(number, 0);
  write_file(number, 1);
#ifndef WITHOUT_DIRECTORY_SYNC
  saved[number].entries_unsynced = false;
#endif
#ifndef WITHOUT_RENAME
  rename(number, true);
#endif
#ifndef WITHOUT_PARENT_SYNC
  sync_parent();
#endif
  committed = number;
#ifndef WITHOUT_ORDER
  remove_older()
#endif
}

inline clear_away() {
#ifndef WITHOUT_CLEAR_SYNC
  sync_parent();
#endif
  old = 1;
  do
  :: old <= SAVES && !saved[old].name -> unlink(old, 0); unlink(old, 1); old++
  :: old <= SAVES && saved[old].name -> old++
  :: else -> old = 0; break
  od
}

proctype saver(byte me) {
  byte number, old, newest, i;
start:
  {
    clear_away();
    check();
    number = 1 + newest;
    do
    :: number <= SAVES -> write(); number++
    :: else -> break
    od
  } unless {
    killed[me] ->
      atomic {
        if
        :: true  // the process alone
        :: power_failed = true; lose_unsynced(1); lose_unsynced(2); lose_unsynced(3)
        fi;
        check();
        number = 0; old = 0; newest = 0;
        killed[me] = false
      }
      goto start
  }
}

inline look_again() {
#ifdef WITHOUT_LIST_AGAIN
  assert(false)
#else
  skip
#endif
}

// load: nothing is there, or it reads one that is whole.
proctype loader() {
  byte number;
  {
    do
    :: d_step {
         number = SAVES;
         do
         :: number > 0 && !saved[number].name -> number--
         :: else -> break
         od;
         assert(number >= committed)
       }
       if
       :: number == 0 -> break
       :: number > 0 && saved[number].name ->  // opened, and found again if it is renamed
          if
          :: saved[number].entry[0] ->
             assert(saved[number].data[0]);
             if
             :: saved[number].entry[1] -> assert(saved[number].data[1]); break
             :: else -> look_again()
             fi
          :: else -> look_again()
          fi
       :: number > 0 && !saved[number].name -> look_again()
       fi
    od
  } unless {
    power_failed
  }
}

init {
  atomic { run saver(0); run loader() }
}
