/** A modal dialog: the browser's own, which keeps the focus in it and closes with Escape. */
import { useEffect, useId, useLayoutEffect, useRef, type ReactNode } from "react";

import { useTexts } from "../i18n";
import { Icon } from "./icon";
import { ToastList } from "./toasts";
import css from "./dialog.module.css";

/** Where the focus goes when what opened a dialog is gone. */
const ELSEWHERE = "content";
const FIRST = "[data-first], [data-body] > :not(header) :is(input, select, textarea, button)";

export function Dialog({
  title,
  onClose,
  children,
  wide = false,
  returnTo,
}: {
  title: string;
  onClose: () => void;
  children: ReactNode;
  wide?: boolean;
  /** Finds what gets the focus when the dialog closes; else it is what had it before. */
  returnTo?: () => HTMLElement | null;
}) {
  const ref = useRef<HTMLDialogElement>(null);
  const heading = useRef<HTMLHeadingElement>(null);
  const back = useRef(returnTo);
  const label = useId();
  const { t } = useTexts();
  useEffect(() => {
    back.current = returnTo;
  });
  // Not `useEffect`: when that one ends, the dialog has left the document already, and the focus is nobody's.
  useLayoutEffect(() => {
    const dialog = ref.current;
    if (!dialog) return;
    const before = document.activeElement as HTMLElement | null;
    if (!dialog.open) dialog.showModal();
    // A form begins at its first field, a question at its answer; a page of facts is read from its heading on.
    const first = wide ? null : dialog.querySelector<HTMLElement>(FIRST);
    (first ?? heading.current)?.focus();
    return () => {
      dialog.close();
      const to = back.current?.() ?? (before && before !== document.body && before.isConnected ? before : null);
      (to ?? document.getElementById(ELSEWHERE))?.focus({ preventScroll: true });
    };
  }, [wide]);
  return (
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-element-interactions -- a click beside the dialog; keys have Escape
    <dialog
      ref={ref}
      className={wide ? `${css.dialog} ${css.wide}` : css.dialog}
      aria-labelledby={label}
      onCancel={(event) => {
        // A file input inside says "cancel" too, when nothing was chosen.
        if (event.target !== ref.current) return;
        event.preventDefault();
        onClose();
      }}
      onMouseDown={(event) => {
        if (event.target === ref.current) onClose();
      }}
    >
      <div className={css.body} data-body>
        <header>
          <h2 id={label} ref={heading} tabIndex={-1}>
            {title}
          </h2>
          <button type="button" className="quiet icon" aria-label={t.close} title={t.close} onClick={onClose}>
            <Icon of="close" />
          </button>
        </header>
        {children}
      </div>
      <ToastList />
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
        <button type="button" className="danger" data-first onClick={onYes}>
          {action}
        </button>
      </div>
    </Dialog>
  );
}
