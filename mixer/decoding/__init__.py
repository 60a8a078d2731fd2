"""From distributions to text: sessions, the scheduler and its rows, formulas evaluated, sampling, speculation."""
