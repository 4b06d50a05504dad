#define JPMAP_ISA baseline
#include "cpu/isa/table.h"
