/*
 * pathotune to QuPath: predictions or regions (GeoJSON) into every image of the open project.
 *
 * First, on the command line, one file a slide:
 *
 *     pathotune export results/*.zarr --format geojson --out exported
 *
 * In QuPath: Automate > Script editor, open this file, set the folder below, Run (once; not "Run for project").
 * Close the images first or reopen them afterwards: what is written into the project is not shown in an open viewer.
 * Written from QuPath's documented scripting interface (0.5 and newer); it was not run when this was written.
 */
import qupath.lib.io.PathIO
import qupath.lib.common.GeneralTools

// The folder that was exported to; null: "exported" beside the project.
File folder = null

// true: what an earlier run of this script brought is taken out first. Nothing else in the project is touched.
boolean replaceEarlier = true

// By this name in the metadata of an object the script knows its own again.
String mark = "Brought by pathotune"

def project = getProject()
if (project == null) {
    println "Open a project first."
    return
}
folder = folder ?: new File(project.getPath().toFile().getParentFile(), "exported")
def files = (folder.listFiles() ?: []).findAll { it.getName().toLowerCase().endsWith(".geojson") }
if (files.isEmpty()) {
    println "There is no .geojson file in ${folder}."
    return
}

def fileNameOf = { entry ->
    def uris = entry.getURIs()
    def path = uris.isEmpty() ? null : GeneralTools.toPath(uris.iterator().next())
    path == null ? entry.getImageName() : path.getFileName().toString()
}

int images = 0
for (entry in project.getImageList()) {
    // a.svs.geojson, a.svs.TUNING.pathotune.geojson: files whose name begins with the slide's own.
    String slide = fileNameOf(entry)
    def mine = files.findAll { it.getName().startsWith(slide + ".") }
    if (mine.isEmpty()) {
        println "${slide}: no file"
        continue
    }
    def imageData = entry.readImageData()
    def hierarchy = imageData.getHierarchy()
    if (replaceEarlier) {
        def earlier = hierarchy.getAnnotationObjects().findAll { it.getMetadata().containsKey(mark) }
        hierarchy.removeObjects(earlier, true)
    }
    for (file in mine) {
        def objects = PathIO.readObjects(file)
        objects.each {
            it.getMetadata().put(mark, file.getName())
            it.setLocked(true)
        }
        hierarchy.addObjects(objects)
        println "${slide}: ${objects.size()} regions of ${file.getName()}"
    }
    entry.saveImageData(imageData)
    images++
}
println "Brought regions to ${images} images."
