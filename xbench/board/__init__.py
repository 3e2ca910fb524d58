"""From results to boards: statistics, rank matrices, markdown, CSV and figures."""
