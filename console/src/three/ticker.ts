/** The beat of a `Scene`: a timer in a worker runs on in a tab that nobody looks at. */
let timer: ReturnType<typeof setInterval> | undefined;
self.onmessage = (event: MessageEvent<number>) => {
  clearInterval(timer);
  timer = setInterval(() => self.postMessage(0), event.data);
};
