"""Turning due streams into stored alerts: plan (pure), poll, worker, ownership, scheduler, sequencer."""
