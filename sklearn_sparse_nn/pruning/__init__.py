"""The pruners: estimators around one engine."""
