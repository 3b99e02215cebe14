"""`python -m tests.write_metrics_document`: puts the metric table into docs/metrics.md."""

from pathlib import Path

from appliance.metric_table import table_markdown

DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"
BEGIN, END = "<!-- table -->\n", "\n<!-- end of table -->"

if __name__ == "__main__":
    text = DOCUMENT.read_text()
    head, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(head + BEGIN + table_markdown() + END + rest.partition(END)[2])
