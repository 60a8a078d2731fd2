"""A mix as files for other programs: one PEFT adapter, exact or compressed to a rank, or one merged model.

    adapter     per module A = vstack(A_i), (R, D_in), and B = hstack(c_i s_i B_i), (D_out, R), so that delta = B A
    compressed  the best rank-k delta by singular values, with what was dropped named per module
    merged      W = W0 + B A, added in float32 and rounded once

The resident model is read and never written. Knows nothing of GGUF, pages or command lines.
"""

from mixer.export.adapter import AdapterExport, ModuleExport, export_adapter
from mixer.export.merged import export_merged

__all__ = ["AdapterExport", "ModuleExport", "export_adapter", "export_merged"]
