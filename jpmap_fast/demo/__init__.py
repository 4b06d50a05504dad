"""The demo: bundled test digits, degraded in three ways, restored by CSGM and by JPMAP."""

from jpmap_fast.demo.photograph import format_photograph as format_photograph
from jpmap_fast.demo.photograph import restore_photograph as restore_photograph
from jpmap_fast.demo.run import run_demo as run_demo
from jpmap_fast.demo.show import format_table as format_table
