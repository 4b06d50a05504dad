#define JPMAP_ISA avx512
#include "cpu/isa/table.h"
