"""Rows with an answer of a fixed form: JSON, XML, cited sentences, reports."""
