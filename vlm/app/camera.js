const camera = find(".camera");
const video = find(".camera video");

// Browsers lend the camera to pages of this machine and of https alone.
find(".webcam").hidden = !navigator.mediaDevices;

find(".webcam").addEventListener("click", async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    camera.showModal();
  } catch (error) {
    showMessage(say("no camera", { reason: error.message }));
  }
});

find(".camera .take").addEventListener("click", () => {
  const canvas = make("canvas", "", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => send(new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.95);
  camera.close();
});

find(".camera .away").addEventListener("click", () => camera.close());

camera.addEventListener("close", () => {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
});
