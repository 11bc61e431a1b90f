"""fluoroscope: watch a language model think while it decodes."""
