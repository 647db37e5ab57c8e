"""Stages fits and mixture: mixtures of the models' answers, fitted on val and measured on test."""
