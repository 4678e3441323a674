// What the library is, and which threads it uses (see tasks.h).
#include "tasks.h"

#include "vector.h"

Team openmp_team = nullptr;
pid_t loaded_in = 0;

extern "C" {

void rmeeto_use_team(Team team) { openmp_team = team, loaded_in = getpid(); }
int rmeeto_lanes() { return W; }
}
