/**
 * The beat of a `Pace`: a timer in a worker runs on in a tab that nobody looks at. A number sets how many milliseconds lie
 * between two beats; `null` says that the last one was answered. Until then there is no other.
 */
let timer: ReturnType<typeof setInterval> | undefined;
let answered = true;
self.addEventListener("message", (event: MessageEvent<number | null>) => {
  if (event.data === null) {
    answered = true;
    return;
  }
  clearInterval(timer);
  timer = setInterval(() => {
    if (!answered) return;
    answered = false;
    self.postMessage(null);
  }, event.data);
});
