"""ModalTune: other modalities injected into a frozen slide encoder, trained towards the patient's labels as text."""
