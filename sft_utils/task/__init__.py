"""The tasks that are trained and scored: tickets, the reader's own, schemas, dialogues."""
