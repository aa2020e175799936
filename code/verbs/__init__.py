"""What each verb of the command line does: one module, one function of the verb's name."""
