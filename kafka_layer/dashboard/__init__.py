"""The page for staff: what each server tells, who asks them, and who may see it."""
