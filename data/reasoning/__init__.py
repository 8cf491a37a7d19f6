"""Problems with a checkable answer and a checkable trace: words, programs, logic."""
