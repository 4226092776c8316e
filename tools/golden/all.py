"""Regenerates every golden of test/golden. About a minute on two cores; see README.md beside this file."""
import adapters, formula, gguf_metadata, models, optim, parquet_rows, qlora, quant, rope, template_values, text

for family in (formula, models, adapters, optim, quant, qlora, rope, template_values, parquet_rows, text, gguf_metadata):
    family.main()
