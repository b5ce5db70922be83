"""Runs and measures: clips in, records out."""

import sys

from propainter.renamed import RenamedModules

_RENAMED_MODULES = """
    compile_report:tasks.compile_report drift:tasks.divergence inpaint:tasks.inpaint matrix:tasks.ablation
    micro:tasks.microbench suite:tasks.suite sweep:launch.sweep trust:tasks.aa_test
"""
"""Modules by the names that a user's own YAML may still have in a `_target_`."""

sys.meta_path.append(RenamedModules(__name__, _RENAMED_MODULES, {}))
