"""A mix as files for other programs: a PEFT adapter, exact or compressed to a rank, or a merged model.

    adapter     for each module A = vstack(A_i), (R, D_in), and B = hstack(c_i s_i B_i), (D_out, R), so delta = B A
    compressed  the best delta of rank k by singular values, and for each module how much was dropped
    merged      W = W0 + B A, added in float32 and rounded once

The resident model is read and never written. GGUF files are apart, in `mixer.export.gguf`. Knows no pages or command
lines.
"""

from mixer.export.adapter import AdapterExport, ModuleExport, export_adapter
from mixer.export.merged import export_merged

__all__ = ["AdapterExport", "ModuleExport", "export_adapter", "export_merged"]
