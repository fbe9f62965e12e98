/** A modal dialog: the browser's own, which keeps the focus in it and closes with Escape. */
import { useEffect, useId, useRef, type ReactNode } from "react";

import { useTexts } from "../i18n";

export function Dialog({
  title,
  onClose,
  children,
  wide = false,
}: {
  title: string;
  onClose: () => void;
  children: ReactNode;
  wide?: boolean;
}) {
  const ref = useRef<HTMLDialogElement>(null);
  const label = useId();
  const { t } = useTexts();
  useEffect(() => {
    const dialog = ref.current;
    if (dialog && !dialog.open) dialog.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog
      ref={ref}
      className={wide ? "wide" : undefined}
      aria-labelledby={label}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onClick={(event) => {
        if (event.target === ref.current) onClose();
      }}
    >
      <div className="dialog-body">
        <header>
          <h2 id={label}>{title}</h2>
          <button type="button" className="quiet icon" aria-label={t.close} onClick={onClose}>
            ✕
          </button>
        </header>
        {children}
      </div>
    </dialog>
  );
}

export function Confirm({
  title,
  action,
  onYes,
  onNo,
}: {
  title: string;
  action: string;
  onYes: () => void;
  onNo: () => void;
}) {
  const { t } = useTexts();
  return (
    <Dialog title={title} onClose={onNo}>
      <div className="row end">
        <button type="button" onClick={onNo}>
          {t.cancel}
        </button>
        <button type="button" className="danger" autoFocus onClick={onYes}>
          {action}
        </button>
      </div>
    </Dialog>
  );
}
